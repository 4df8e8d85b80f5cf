"""Compare extracted features with those of the model on the test views."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_videos import moving_noise
from PIL import Image

from stvit_video.config import load_config
from stvit_video.data.decode import VideoError
from stvit_video.data.encode import write_video
from stvit_video.engine.precision import build_normalize
from stvit_video.models import build_model, load_weights, save_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = (
    *("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5", "DATA.TEST_CROP_SIZE", "40"),
    *("DATA.TRAIN_CROP_SIZE", "40", "DATA.VAL_SHORT_SIDE", "44", "NUM_GPUS", "1"),
)
VIDEO = (
    *(*SMALL, "DATA.NUM_FRAMES", "4", "TEST.NUM_ENSEMBLE_VIEWS", "2"),
    *("TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two videos, two images, and weights for the model of each."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("images", "videos"):
        (folder / name).mkdir()
    for number in range(2):
        write_video(folder / f"videos/{number}.mp4", moving_noise(20 + number), fps=25)
        Image.fromarray(moving_noise(1, seed=number)[0]).save(folder / f"images/{number}.png")
    for name, overrides in (("k400", VIDEO), ("imagenet", SMALL)):
        torch.manual_seed(0)
        model = build_model(load_config(CONFIGS / name / "stvit_r_swin_t.yaml", overrides))
        save_weights(model, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Return a function that runs the tool, and returns the arrays or the error message."""

    def run(config, *paths, kind="pooled", output="out/features.npz", overrides=()):
        path = tmp_path / output
        words = ["--cfg", str(CONFIGS / f"{config}.yaml"), "--kind", kind, "--output", str(path)]
        weights = folder / f"{config.partition('/')[0]}.safetensors"
        small = VIDEO if config.startswith("k400") else SMALL
        overrides = (*small, "TEST.CHECKPOINT_FILE_PATH", str(weights), *overrides)
        paths = [str(folder / path) for path in paths]
        monkeypatch.setattr(
            sys,
            "argv",
            ["extract_features.py", *words, "--device", "cpu", *paths, "--opts", *overrides],
        )
        status = importlib.import_module("extract_features").main()
        said = capsys.readouterr()
        if status == 2:
            assert len(said.err.splitlines()) == 1
            assert not path.exists()
            return said.err
        assert status == 0
        with np.load(path) as file:
            arrays = dict(file)
        for name, array in arrays.items():
            assert f"{name} {array.shape}" in said.out
        assert list(path.parent.iterdir()) == [path]
        return arrays

    return run


def model_and_view(folder, name, overrides, frames):
    cfg = load_config(CONFIGS / name / "stvit_r_swin_t.yaml", overrides)
    model = build_model(cfg).eval()
    load_weights(model, folder / f"{name}.safetensors", min_share=1.0)
    return model, build_normalize(cfg, torch.device("cpu"))(frames)


def test_grids_of_videos(run, folder):
    arrays = run("k400/stvit_r_swin_t", "videos", kind="grid")
    assert [Path(name).name for name in arrays["names"]] == ["0.mp4", "1.mp4"]
    assert arrays["features"].shape == (2, 6, 2, 2, 2, 96)
    assert arrays["features"].dtype == np.float32
    pooled = run("k400/stvit_r_swin_t", "videos/1.mp4", "videos/0.mp4")
    assert pooled["features"].shape == (2, 6, 96)
    expected = arrays["features"].mean(axis=(2, 3, 4))[::-1]
    np.testing.assert_allclose(pooled["features"], expected, atol=1e-5)


def test_a_pyramid_has_an_array_for_each_stage(run):
    arrays = run("k400/stvit_r_swin_t", "videos", kind="pyramid")
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "names": (2,),
        "left_out": (0,),
        "stage1": (2, 6, 2, 10, 10, 12),
        "stage2": (2, 6, 2, 5, 5, 24),
        "stage3": (2, 6, 2, 3, 3, 48),
        "stage4": (2, 6, 2, 2, 2, 96),
    }
    assert all(array.any() for name, array in arrays.items() if name.startswith("stage"))


def test_images_are_those_of_the_test(run, folder):
    one_view = ("TEST.NUM_ENSEMBLE_VIEWS", "1", "TEST.NUM_SPATIAL_CROPS", "1")
    square = Image.fromarray(moving_noise(1, height=40, width=40, seed=5)[0])
    (folder / "square").mkdir(exist_ok=True)
    square.save(folder / "square/0.png")
    as_it_is = ("DATA.VAL_SHORT_SIDE", "40")
    arrays = run("imagenet/stvit_r_swin_t", "square", kind="grid", overrides=(*one_view, *as_it_is))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None, :, None]
    model, view = model_and_view(folder, "imagenet", SMALL, pixels)
    with torch.no_grad():
        expected = model.forward_features(view)
    np.testing.assert_allclose(arrays["features"][0], expected.numpy(), atol=1e-4)
    assert len(run("imagenet/stvit_r_swin_t", "images")["names"]) == 2


def test_features_are_exact_unless_asked(run):
    """The config trains in mixed precision; 2**-11 is 1/16 of bfloat16's epsilon."""
    config, place = "imagenet/stvit_r_swin_t", "images/0.png"
    assert load_config(CONFIGS / f"{config}.yaml").TRAIN.MIXED_PRECISION
    exact = run(config, place, kind="grid")["features"]
    again = run(config, place, kind="grid", overrides=("TRAIN.MIXED_PRECISION", "False"))
    np.testing.assert_array_equal(exact, again["features"])
    mixed = run(config, place, kind="grid", overrides=("TRAIN.MIXED_PRECISION", "True"))
    assert np.abs(mixed["features"] - exact).max() > 2**-11 * np.abs(exact).max()


def test_folders_are_read_with_their_subfolders(run, folder):
    for name in ("b", "a"):
        (folder / "classes/val" / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            file = folder / f"classes/val/{name}/{number}.JPEG"
            Image.fromarray(moving_noise(1, seed=number)[0]).save(file)
    # Class folders are often links to another data set.
    if not (folder / "classes/val/c").exists():
        (folder / "classes/val/c").symlink_to(folder / "images")
    names = run("imagenet/stvit_r_swin_t", "classes")["names"]
    assert [Path(name).relative_to(folder / "classes/val").as_posix() for name in names] == [
        *("a/0.JPEG", "a/1.JPEG", "b/0.JPEG", "b/1.JPEG", "c/0.png", "c/1.png"),
    ]


def test_csv_files_list_images_and_videos(run, folder):
    (folder / "images.csv").write_text("images/1.png 4\n\nimages/0.png\n")
    arrays = run("imagenet/stvit_r_swin_t", "images.csv")
    assert [Path(name).name for name in arrays["names"]] == ["1.png", "0.png"]
    in_order = run("imagenet/stvit_r_swin_t", "images")
    np.testing.assert_allclose(arrays["features"], in_order["features"][::-1], atol=1e-5)
    (folder / "videos.csv").write_text("1.mp4,4\n")
    overrides = ("DATA.PATH_LABEL_SEPARATOR", ",", "DATA.PATH_PREFIX", str(folder / "videos"))
    arrays = run("k400/stvit_r_swin_t", "videos.csv", overrides=overrides)
    assert list(arrays["names"]) == [str(folder / "videos/1.mp4")]


def test_unreadable_files_are_skipped(run, folder, caplog):
    (folder / "bad").mkdir(exist_ok=True)
    (folder / "bad/0.png").write_text("no image")
    Image.fromarray(moving_noise(1, seed=1)[0]).save(folder / "bad/1.png")
    arrays = run("imagenet/stvit_r_swin_t", "gone.jpg", "bad", "images/0.png")
    assert list(arrays["names"]) == [str(folder / "bad/1.png"), str(folder / "images/0.png")]
    assert list(arrays["left_out"]) == [str(folder / "gone.jpg"), str(folder / "bad/0.png")]
    good = run("imagenet/stvit_r_swin_t", "images")
    np.testing.assert_allclose(arrays["features"], good["features"][::-1], atol=1e-5)
    assert len(good["left_out"]) == 0
    assert caplog.messages == [
        f"{folder / 'gone.jpg'} cannot be read and is skipped: No such file or directory",
        f"{folder / 'bad/0.png'} cannot be read and is skipped: Pillow cannot identify the image",
    ]


def test_no_readable_file_is_an_error(run, folder):
    for number in range(2):
        (folder / f"broken{number}.png").write_text("no image")
    said = run("imagenet/stvit_r_swin_t", "broken0.png", "broken1.png")
    assert "None of the 2 files can be read" in said


def test_pyav_is_the_fallback_of_decord(run, folder, monkeypatch, caplog):
    """As in the test, PyAV is the fallback decoder."""
    pytest.importorskip("decord")
    expected = run("k400/stvit_r_swin_t", "videos/0.mp4")["features"]

    class Broken:
        def __init__(self, path):
            raise VideoError(path, "decord does not like it")

    monkeypatch.setattr("stvit_video.data.decode.decord_reader.DecordReader", Broken)
    decord = ("DATA.DECODING_BACKEND", "decord")
    arrays = run("k400/stvit_r_swin_t", "videos/0.mp4", overrides=decord)
    np.testing.assert_array_equal(arrays["features"], expected)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("k400/stvit_r_swin_t", "videos"), {"output": "features.npy"}, "end its name with .npz"),
        (
            ("k400/stvit_r_swin_t", "nothing"),
            {},
            "nothing does not exist: give existing files, folders, or CSV files",
        ),
        (
            ("imagenet/stvit_r_swin_t", "nofile.jpg"),
            {},
            "nofile.jpg cannot be read: No such file or directory.",
        ),
        (
            ("k400/stvit_r_swin_t", "images"),
            {},
            "0.png is an image, but a clip has DATA.NUM_FRAMES 4",
        ),
        (("imagenet/stvit_r_swin_t", "images", "videos"), {}, "Images and videos cannot be mixed"),
        (("k400/stvit_swin_t", "videos"), {"kind": "pyramid"}, "fills"),
        (("imagenet/deit_s", "images"), {"kind": "pyramid"}, '"deit" has no pyramid features'),
        (("k400/stvit_r_swin_t", "k400.safetensors"), {}, "k400.safetensors cannot be read: "),
    ],
)
def test_a_mistake_is_one_line(run, arguments, options, sentence):
    assert sentence in run(*arguments, **options)
