"""The picture of what a detector finds in an image."""

import sys

import numpy as np
import predict
import pytest
import torch
from coco_folder import write_folder
from PIL import Image
from PIL.ExifTags import Base

from stvit_video.config import load_config
from stvit_video.engine.detection.predict import draw
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
    """Return a function that runs the tool on arguments: its status and what it printed."""
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
    # Above any score there is nothing to draw.
    status, said = program(image, "--min-score", "1.1", *weights)
    assert said.out.startswith("0 objects")
    picture = np.asarray(Image.open(tmp_path / "found" / "picture.png"))
    np.testing.assert_array_equal(picture, original)


def test_a_photo_is_turned_upright(program, tmp_path):
    weights = ("TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.pyth"))
    with Image.open(tmp_path / "data" / "test" / "11.png") as image:
        upright = np.asarray(image.copy())
        exif = image.getexif()
        exif[Base.Orientation] = 6  # a quarter to the right makes it upright
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    status, _ = program(tmp_path / "photo.png", "--min-score", "1.1", *weights)
    assert status == 0
    picture = np.asarray(Image.open(tmp_path / "found" / "picture.png"))
    np.testing.assert_array_equal(picture, upright)


@pytest.mark.parametrize(
    ("image", "arguments", "said"),
    [
        ("none.png", (), "cannot be read: No such file or directory."),
        ("coco.yaml", (), "cannot be read: it is no image that Pillow knows."),
        ("data/test/11.png", (), "There are no weights to test"),
        (
            "data/test/11.png",
            ("MODEL.ARCH", "swin", "TRAIN.ENABLE", "False", "TEST.ENABLE", "False"),
            'Objects are found by a detector, but MODEL.ARCH is "swin"',
        ),
    ],
)
def test_a_mistake_is_one_sentence(program, tmp_path, image, arguments, said):
    status, printed = program(tmp_path / image, *arguments)
    assert status == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_masks_lie_in_their_boxes():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    found = {
        "boxes": torch.tensor([[10.0, 8.0, 30.0, 28.0]]),
        "labels": torch.tensor([2]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    drawn = draw(image, found, captions=[""])
    coloured = drawn.any(dim=0)
    assert coloured[12:24, 14:26].all()
    assert not coloured[34:].any() and not coloured[:, 36:].any() and not coloured[:, :6].any()
    # The mask lets the image shine through, the box does not.
    assert drawn[:, 18, 20].max() < drawn[:, 18, 10].max()
