"""Run tools/predict.py with a detector and with a classifier."""

import csv
import json
import sys

import numpy as np
import predict
import pytest
import torch
from coco_folder import write_folder
from PIL import Image
from PIL.ExifTags import Base
from small_run import SMALL_CONFIG, write_data_set

from stvit_video.config import load_config
from stvit_video.data.build import build_dataset
from stvit_video.engine.precision import build_normalize
from stvit_video.errors import UserError
from stvit_video.inference.detect import draw_detections, draw_objects
from stvit_video.models import build_model

CONFIG = """
DEVICE: cpu
TRAIN: {DATASET: coco}
TEST: {DATASET: coco}
DATA: {NUM_FRAMES: 1}
MODEL: {ARCH: cascade_mask_rcnn, NUM_CLASSES: 3}
SWIN:
  PATCH_SIZE: [1, 4, 4]
  WINDOW_SIZE: [1, 4, 4]
  EMBED_DIM: 8
  DEPTHS: [1, 1]
  NUM_HEADS: [1, 1]
DETECTION:
  SPLITS: [train, val, test]
  MAX_SIZE: 96
  TEST_SHORT_SIDE: 48
  FPN_CHANNELS: 8
  ANCHOR_SIZES: [8, 16, 24]
  NUM_PROPOSALS: [20, 20]
  BOX_FC_DIM: 16
"""


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """Return a function from arguments of the tool to its exit status and output."""
    folder = write_folder(tmp_path / "data")
    path = tmp_path / "coco.yaml"
    path.write_text(CONFIG)
    torch.manual_seed(0)
    torch.save({"model_state": build_model(load_config(path)).state_dict()}, tmp_path / "w.pyth")
    where = ("DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(tmp_path / "run"))

    def run(image, *arguments):
        picture = ("--output", str(tmp_path / "found" / "picture.png"))
        argv = ["predict.py", str(image), "--cfg", str(path), *picture, *arguments, *where]
        monkeypatch.setattr(sys, "argv", argv)
        return predict.main(), capsys.readouterr()

    return run


def test_objects_are_listed_and_drawn(program, tmp_path):
    image = tmp_path / "data" / "test" / "11.png"
    weights = ("TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.pyth"))
    status, said = program(image, "--min-score", "0.0", *weights)
    assert status == 0
    *objects, last = said.out.splitlines()
    assert objects and objects[0].split()[0] in ("bar", "disc", "box")
    assert last == f"{len(objects)} objects; {tmp_path / 'found' / 'picture.png'}"
    picture = np.asarray(Image.open(tmp_path / "found" / "picture.png"))
    original = np.asarray(Image.open(image))
    assert picture.shape == original.shape
    assert (picture != original).any()
    # No score is above 1.
    status, said = program(image, "--min-score", "1.1", *weights)
    assert said.out.startswith("0 objects")
    picture = np.asarray(Image.open(tmp_path / "found" / "picture.png"))
    np.testing.assert_array_equal(picture, original)


def test_a_photo_is_turned_upright(program, tmp_path):
    weights = ("TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.pyth"))
    with Image.open(tmp_path / "data" / "test" / "11.png") as image:
        upright = np.asarray(image.copy())
        exif = image.getexif()
        exif[Base.Orientation] = 6  # rotate clockwise to display
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    status, _ = program(tmp_path / "photo.png", "--min-score", "1.1", *weights)
    assert status == 0
    picture = np.asarray(Image.open(tmp_path / "found" / "picture.png"))
    np.testing.assert_array_equal(picture, upright)


@pytest.mark.parametrize(
    ("image", "arguments", "said"),
    [
        ("none.png", (), "cannot be read: No such file or directory."),
        ("coco.yaml", (), "cannot be read: Pillow cannot identify the image."),
        ("data/test/11.png", (), "There are no weights to test"),
        ("data/test/11.png", ("more.png",), "A detector takes one image, but there are 2"),
    ],
)
def test_a_mistake_with_a_detector_is_one_line(program, tmp_path, image, arguments, said):
    status, printed = program(tmp_path / image, *arguments)
    assert status == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_detector_needs_a_file_for_its_picture(program, tmp_path, monkeypatch, capsys):
    argv = ["predict.py", "data/test/11.png", "--cfg", str(tmp_path / "coco.yaml")]
    monkeypatch.setattr(sys, "argv", argv)
    assert predict.main() == 2
    assert "needs a file for the drawn image: give --output FILE." in capsys.readouterr().err


def test_a_classifier_draws_nothing(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_CONFIG)
    with pytest.raises(UserError, match=r'needs a detector, but MODEL\.ARCH is "swin"'):
        draw_detections(load_config(path), "a.png", output=tmp_path / "b.png", min_score=0.5)


def test_masks_lie_in_their_boxes():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    found = {
        "boxes": torch.tensor([[10.0, 8.0, 30.0, 28.0]]),
        "labels": torch.tensor([2]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    drawn = draw_objects(image, found, captions=[""])
    colored = drawn.any(dim=0)
    assert colored[12:24, 14:26].all()
    assert not colored[34:].any() and not colored[:, 36:].any() and not colored[:, :6].any()
    # The mask is transparent, the box is opaque.
    assert drawn[:, 18, 20].max() < drawn[:, 18, 10].max()


IMAGES = """
DEVICE: cpu
TRAIN: {DATASET: imagenet, BATCH_SIZE: 4}
TEST: {DATASET: imagenet, BATCH_SIZE: 4, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA: {NUM_FRAMES: 1, TRAIN_CROP_SIZE: 32, VAL_SHORT_SIDE: 36, TEST_CROP_SIZE: 32}
MODEL: {ARCH: deit, NUM_CLASSES: 6, DROPOUT_RATE: 0.0, DROPCONNECT_RATE: 0.0}
DEIT: {PATCH_SIZE: [16, 16], EMBED_DIM: 12, DEPTH: 1, NUM_HEADS: 2}
"""


@pytest.fixture
def classifier(tmp_path, monkeypatch, capsys):
    """Return a function that runs the tool in ``tmp_path`` on a model of random weights."""
    monkeypatch.chdir(tmp_path)

    def run(config, *words):
        (tmp_path / "model.yaml").write_text(config)
        torch.manual_seed(0)
        model = build_model(load_config("model.yaml"))
        # With the default initialization, the scores of all files are nearly equal.
        torch.nn.init.normal_(model.head.fc.weight)
        torch.save({"model_state": model.state_dict()}, "w.pyth")
        weights = ("TEST.CHECKPOINT_FILE_PATH", "w.pyth")
        argv = ["predict.py", "--cfg", "model.yaml", *words, *weights]
        monkeypatch.setattr(sys, "argv", argv)
        return predict.main(), capsys.readouterr()

    return run


@pytest.fixture
def images(tmp_path):
    """Write two images for each of the classes a to f."""
    generator = np.random.default_rng(0)
    for name in "abcdef":
        (tmp_path / "data/val" / name).mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data/val" / name / f"{number}.png")
    return tmp_path / "data"


def expected_scores(split):
    """Return the mean scores over all views, in percent, for each video and class."""
    cfg = load_config("model.yaml", ["DATA.PATH_TO_DATA_DIR", "data"])
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load("w.pyth")["model_state"])
    normalize, dataset = build_normalize(cfg, torch.device("cpu")), build_dataset(cfg, split)
    with torch.no_grad():
        logits = torch.stack([model(normalize(item["video"])) for item in dataset])
    return (100 * logits.softmax(-1).mean(1)).numpy()


def blocks(printed, size):
    """Parse the printed lines: {file: [(percent, name)]}."""
    lines = printed.splitlines()
    return {
        lines[start]: [
            (float(line.split("%")[0]), line.split("%  ")[1])
            for line in lines[start + 1 : start + size]
        ]
        for start in range(0, len(lines), size)
    }


def test_top_classes_of_videos_use_all_views(classifier, tmp_path):
    (tmp_path / "data").mkdir()
    write_data_set(tmp_path / "data")
    (tmp_path / "data/classes.json").write_text(json.dumps({"left": 2, "up": 0, "down": 1}))
    overrides = ("DATA.PATH_TO_DATA_DIR", "data")
    status, said = classifier(SMALL_CONFIG, "data/test.csv", "--output", "o/top.csv", *overrides)
    assert status == 0
    expected = expected_scores("test")
    found = blocks(said.out, size=1 + 3)
    assert list(found) == [f"data/{number}.mp4" for number in range(7)]
    for best, row in zip(found.values(), expected, strict=True):
        order = np.argsort(-row)
        assert [name for _, name in best] == [("up", "down", "left")[label] for label in order]
        np.testing.assert_allclose([percent for percent, _ in best], row[order], atol=0.006)
    with (tmp_path / "o/top.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 3
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "1"]
    second = rows[3 + 1]
    order = np.argsort(-expected[1])
    assert (second["file"], int(second["label"])) == ("data/1.mp4", order[1])
    assert second["class"] == ("up", "down", "left")[order[1]]
    assert float(second["score"]) == pytest.approx(expected[1, order[1]] / 100, abs=1e-6)


def test_images_in_folders_get_five_classes(classifier, images):
    status, said = classifier(IMAGES, "data/val", "DATA.PATH_TO_DATA_DIR=data")
    assert status == 0
    found = blocks(said.out, size=1 + 5)
    assert list(found) == [f"data/val/{name}/{number}.png" for name in "abcdef" for number in "01"]
    expected = expected_scores("test")
    for best, row in zip(found.values(), expected, strict=True):
        order = np.argsort(-row)[:5]
        assert [name for _, name in best] == ["abcdef"[label] for label in order]
        np.testing.assert_allclose([percent for percent, _ in best], row[order], atol=0.006)
    # Without a data folder, the names of classes are their numbers.
    _, said = classifier(IMAGES, "data/val/c/1.png", "data/val/a/0.png")
    assert list(blocks(said.out, size=1 + 5)) == ["data/val/c/1.png", "data/val/a/0.png"]
    (_, name), *_ = blocks(said.out, size=1 + 5)["data/val/a/0.png"]
    assert name == str(expected[0].argmax())


def test_unreadable_files_are_skipped_with_a_warning(classifier, images, caplog):
    (images / "val/a/0.png").write_text("no image")
    status, said = classifier(IMAGES, "data/val/a", "gone.jpg", "data/val/b/0.png")
    assert status == 0
    assert list(blocks(said.out, size=1 + 5)) == ["data/val/a/1.png", "data/val/b/0.png"]
    assert caplog.messages == [
        "gone.jpg cannot be read and is skipped: No such file or directory",
        "data/val/a/0.png cannot be read and is skipped: Pillow cannot identify the image",
    ]


def test_logits_are_not_printed_as_percentages(classifier, images):
    _, said = classifier(IMAGES, "data/val/a/0.png", "MODEL.HEAD_ACT", "none")
    numbers = [float(line.split()[0]) for line in said.out.splitlines()[1:]]
    assert "%" not in said.out
    assert numbers == sorted(numbers, reverse=True)
    assert sum(numbers) != pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.png",), "gone.png cannot be read: No such file or directory."),
        (("gone.png", "away.png"), "None of the 2 files can be read"),
        (("gone",), "gone does not exist: give existing files, folders"),
        (("w.pyth",), "w.pyth cannot be read: Pillow cannot identify the image."),
        (("DATA.NUM_FRAMES", "1"), "DATA.NUM_FRAMES is a config key, not a file."),
        (("data/val", "--output", "best.json"), "end its name with .csv."),
        (("data/val", "--min-score", "0.1"), '--min-score is only for detectors, not for "deit"'),
        (("data/val", "--output", "w.pyth/best.csv"), "Cannot write w.pyth/best.csv"),
    ],
)
def test_a_mistake_with_a_classifier_is_one_line(classifier, images, words, said):
    status, printed = classifier(IMAGES, *words)
    assert status == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1
