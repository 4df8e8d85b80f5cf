"""Test that each YAML file in configs/ builds a model, trains, and documents how to run it."""

import importlib
import math
import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from stvit_video.config import load_config
from stvit_video.models import build_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DETECTORS = [path for path in CONFIGS if load_config(path).MODEL.ARCH == "cascade_mask_rcnn"]
CLASSIFIERS = [path for path in CONFIGS if path not in DETECTORS]


def config_name(path):
    return path.relative_to(ROOT / "configs").as_posix()


parametrize_configs = pytest.mark.parametrize("path", CONFIGS, ids=config_name)


@pytest.fixture(scope="module")
def parse_arguments():
    """The argument parser of ``tools/run_net.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")  # As Python does for a program.
        return importlib.import_module("run_net").parse_arguments


def header_comment(path):
    """Return the lines of the comment at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return [line.removeprefix("#").strip() for line in comment]


def header_command(path):
    """Return the words of the command at the top of a file, including continuation lines."""
    words = []
    for line in header_comment(path):
        words += shlex.split(line.removesuffix("\\"))
        if not line.endswith("\\"):
            break
    return words


def load_small_config(path):
    """Load a config with its layers and heads, but at most 8 channels per head.

    PyTorchVideo models keep their channels and get small clips, as MViT depends on the clip size.
    """
    cfg = load_config(path)
    swin = min(cfg.SWIN.EMBED_DIM, 8 * cfg.SWIN.NUM_HEADS[0])
    deit = min(cfg.DEIT.EMBED_DIM, 8 * cfg.DEIT.NUM_HEADS)
    overrides = ["SWIN.EMBED_DIM", str(swin), "DEIT.EMBED_DIM", str(deit)]
    overrides += ["DETECTION.FPN_CHANNELS", "16", "DETECTION.BOX_FC_DIM", "16"]
    overrides += ["DETECTION.BOXES_PER_IMAGE", "16"]
    if cfg.MODEL.ARCH == "ptv":
        overrides += ["DATA.NUM_FRAMES", "4"]
        overrides += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32"]
    return load_config(path, overrides)


def test_configs_are_found():
    assert len(CONFIGS) >= 6
    assert not list((ROOT / "configs").rglob("*.yml")), "these tests only find .yaml files"


@pytest.mark.parametrize("path", CLASSIFIERS, ids=config_name)
def test_classifier_forward_and_backward(path):
    cfg = load_small_config(path)
    model = build_model(cfg).train()
    is_deit = cfg.MODEL.ARCH == "deit"
    size = 2 * max(cfg.DEIT.PATCH_SIZE) * math.isqrt(cfg.STVIT.NUM_TOKENS) if is_deit else 32
    logits = model(torch.randn(2, 3, min(4, cfg.DATA.NUM_FRAMES), size, size))
    assert logits.shape == (2, cfg.MODEL.NUM_CLASSES)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    first = next(name for name in gradients if name.startswith(("patch_embed.", "backbone.")))
    *_, last = gradients
    assert last.startswith("head.")
    assert gradients[first].any()
    assert gradients[last].any()


@pytest.mark.parametrize("path", DETECTORS, ids=config_name)
def test_detector_forward_and_backward(path):
    cfg = load_small_config(path)
    model = build_model(cfg).train()
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 56.0]]),
        "labels": torch.tensor([cfg.MODEL.NUM_CLASSES]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    losses = model(torch.randn(1, 3, 64, 64), [(64, 64)], [target])
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["backbone.body.stages.0.blocks.0.attn.qkv.weight"].any()


@parametrize_configs
def test_first_line_is_a_valid_command(path, parse_arguments, monkeypatch):
    python, program, *arguments = header_command(path)
    assert (python, program) == ("python", "tools/run_net.py")
    parsed = parse_arguments(arguments)
    assert parsed.cfg_files == [path.relative_to(ROOT).as_posix()]
    monkeypatch.chdir(ROOT)
    load_config(parsed.cfg_files[0], parsed.overrides)


@parametrize_configs
def test_comment_has_the_number_of_parameters(path):
    found = re.search(r"([\d.]+) M parameters", " ".join(header_comment(path)))
    assert found, "write it next to the FLOPs"
    cfg = load_config(path)
    # MViT of PyTorchVideo reads tensor values when it is built, so it cannot be on meta.
    with torch.device("cpu" if cfg.MODEL.MODEL_NAME.startswith("mvit") else "meta"):
        model = build_model(cfg)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    digits = len(found[1].partition(".")[2])
    assert found[1] == f"{millions:.{digits}f}"
