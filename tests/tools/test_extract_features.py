"""Features in a file, against the model's own on the views that the test would take."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_videos import moving_noise
from PIL import Image

from stvit_video.config import load_config
from stvit_video.data.encode import write_video
from stvit_video.engine.precision import build_normalise
from stvit_video.models import build_model, load_weights
from stvit_video.models.weights import save_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = (
    *("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5", "DATA.TEST_CROP_SIZE", "40"),
    *("DATA.TRAIN_CROP_SIZE", "40", "DATA.VAL_SHORT_SIDE", "44", "NUM_GPUS", "1"),
    *("TRAIN.MIXED_PRECISION", "False"),
)
VIDEO = (
    *(*SMALL, "DATA.NUM_FRAMES", "4", "TEST.NUM_ENSEMBLE_VIEWS", "2"),
    *("TEST.NUM_SPATIAL_CROPS", "3", "TEST.BATCH_SIZE", "4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, two images, and weights for the models of both."""
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
    """Run the tool on places in the folder; gives the arrays, or what it says of a mistake."""

    def run(config, *places, kind="pooled", output="out/features.npz", overrides=()):
        path = tmp_path / output
        words = ["--cfg", str(CONFIGS / f"{config}.yaml"), "--kind", kind, "--output", str(path)]
        weights = folder / f"{config.partition('/')[0]}.safetensors"
        small = VIDEO if config.startswith("k400") else SMALL
        overrides = (*small, "TEST.CHECKPOINT_FILE_PATH", str(weights), *overrides)
        places = [str(folder / place) for place in places]
        monkeypatch.setattr(
            sys,
            "argv",
            ["extract_features.py", *words, "--device", "cpu", *places, "--opts", *overrides],
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
    return model, build_normalise(cfg, torch.device("cpu"))(frames)


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
        "stage1": (2, 6, 2, 10, 10, 12),
        "stage2": (2, 6, 2, 5, 5, 24),
        "stage3": (2, 6, 2, 3, 3, 48),
        "stage4": (2, 6, 2, 2, 2, 96),
    }
    assert all(array.any() for array in arrays.values())


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


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("k400/stvit_r_swin_t", "videos"), {"output": "features.npy"}, "end its name with .npz"),
        (("k400/stvit_r_swin_t", "nothing"), {}, "There is no video"),
        (
            ("k400/stvit_r_swin_t", "images"),
            {},
            "0.png is an image, but a clip has DATA.NUM_FRAMES 4",
        ),
        (("imagenet/stvit_r_swin_t", "images", "videos"), {}, "give images or videos, not both"),
        (("k400/stvit_swin_t", "videos"), {"kind": "pyramid"}, "fills"),
        (("imagenet/deit_s", "images"), {"kind": "pyramid"}, '"deit" has no pyramid features'),
        (("k400/stvit_r_swin_t", "k400.safetensors"), {}, "cannot read the video"),
    ],
)
def test_nonsense_is_a_sentence(run, arguments, options, sentence):
    assert sentence in run(*arguments, **options)
