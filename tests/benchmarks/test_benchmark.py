"""Create, time and report models."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stvit_video.benchmarks.models import (
    Timing,
    compare,
    create_model,
    default_size,
    format_timings,
    pair_ratios,
)
from stvit_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SLOWFAST = "configs/k400/ptv/slowfast_r50.yaml"


class Recorder(nn.Module):
    """Record forward passes in a list that several models share."""

    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.calls.append((self.name, self.training, torch.is_grad_enabled()))
        return x * self.weight


@pytest.mark.parametrize("train", [False, True])
def test_models_take_turns(train):
    calls = []
    models = {name: Recorder(name, calls) for name in ("a", "b")}
    timings = compare(models, torch.ones(1, 3, 2, 4, 4), rounds=3, train=train)
    assert [name for name, _, _ in calls[-6:]] == ["a", "b"] * 3
    assert {call[1:] for call in calls} == {(train, train)}
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]
    assert all(model.weight.grad is None for model in models.values())


def test_ratios_are_round_by_round():
    fast, slow = Timing([1.0, 2.0, 1.0]), Timing([2.0, 2.0, 4.0])
    assert pair_ratios(fast, slow) == [2.0, 1.0, 4.0]
    text = format_timings({"fast": fast, "slow": slow}, batch=4)
    assert "fast is 2.00 times as fast as slow (median of 3 rounds, 1.00 to 4.00)" in text
    assert "4.00" in text.splitlines()[1]  # clips per second at the median of 1 s


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:swin4d", "torchvision has no video model swin4d: choose one of"),
        ("timm:deit_giant", "timm has no model deit_giant: choose one of"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_unknown_models_are_an_error(name, message):
    with pytest.raises(UserError, match=message):
        create_model(name)


@pytest.fixture
def program():
    """Return a function that runs the tool for one round: its exit status, output and errors."""

    def run(*arguments):
        command = [sys.executable, "tools/benchmark.py", *arguments, "--rounds", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_program_compares_image_models_at_the_size_of_the_config(program):
    models = ("configs/imagenet/deit_t.yaml", "timm:deit_tiny_patch16_224")
    status, output, errors = program(*models, "--keep-memory", "--batch", "2")
    assert status == 0, errors
    assert f"{models[0]} is " in output
    assert "freed memory kept" in output
    assert "inference on 2 x 3 x 224 x 224\n" in output


def test_an_unsupported_input_is_an_error(program):
    status, _, errors = program("timm:deit_tiny_patch16_224", "--size", "2", "32", "32")
    assert (status, errors.count("\n")) == (2, 1)
    message = "timm:deit_tiny_patch16_224 cannot run on an input of 1 x 3 x 2 x 32 x 32 ("
    assert message in errors
    assert "choose another --size" in errors


@pytest.mark.parametrize(
    ("names", "train", "size"),
    [
        (["configs/imagenet/deit_t.yaml"], False, (1, 224, 224)),
        (["timm:resnet18", SLOWFAST, "configs/demo/swin_motion.yaml"], False, (32, 256, 256)),
        ([SLOWFAST], True, (32, 224, 224)),
        (["configs/coco/cascade_mask_rcnn_swin_s.yaml"], False, (1, 800, 1344)),
        (["timm:resnet18", "torchvision:swin3d_t"], False, (1, 224, 224)),
        (["torchvision:swin3d_t"], False, (32, 224, 224)),
    ],
)
def test_the_default_size_is_that_of_the_first_config(names, train, size):
    assert default_size(names, train=train) == size


def test_overrides_change_the_size():
    overrides = ("DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", "160")
    assert default_size(["configs/k400/swin_t.yaml"], overrides=overrides) == (4, 160, 160)


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_timm_models_are_created_for_the_size(name):
    model = create_model(f"timm:{name}", size=(1, 96, 64)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 64)).shape == (1, 1000)


def test_an_unsupported_size_is_an_error():
    message = (
        r"timm:xcit\w+ cannot be built for images of 100 x 100 \(.*\): choose another --size\.$"
    )
    with pytest.raises(UserError, match=message):
        create_model("timm:xcit_nano_12_p16_224", size=(1, 100, 100))


@pytest.mark.parametrize(("name", "error"), [("timm:broken", UserError), ("ours", ValueError)])
def test_only_failures_of_library_models_are_user_errors(name, error):
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("no such size.\nAnd more")

    with pytest.raises(error, match="no such size") as raised:
        compare({name: Broken()}, torch.zeros(2, 3, 8, 8), rounds=1)
    if error is UserError:
        assert str(raised.value) == (
            "timm:broken cannot run on an input of 2 x 3 x 8 x 8 (no such size): choose another "
            "--size or --batch."
        )


@pytest.mark.parametrize("train", [False, True])
def test_the_backbone_of_a_detector_is_timed(train):
    backbone = create_model("configs/demo/swin_shapes.yaml")
    maps = backbone(torch.zeros(1, 3, 40, 56))
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(10, 14), (5, 7), (3, 4)]
    timings = compare({"swin": backbone}, torch.zeros(1, 3, 40, 56), rounds=1, train=train)
    assert len(timings["swin"].seconds) == 1
