"""Models against each other: what is built, what is timed, what is written of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stvit_video.benchmarks.models import (
    Timing,
    build_contender,
    compare,
    default_size,
    pair_ratios,
    report,
)
from stvit_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SLOWFAST = "configs/k400/ptv/slowfast_r50.yaml"


class Counting(nn.Module):
    """Counts its passes in a list that several share."""

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
    models = {name: Counting(name, calls) for name in ("a", "b")}
    timings = compare(models, torch.ones(1, 3, 2, 4, 4), rounds=3, train=train)
    assert [name for name, _, _ in calls[-6:]] == ["a", "b"] * 3
    assert {call[1:] for call in calls} == {(train, train)}
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]
    assert all(model.weight.grad is None for model in models.values())


def test_ratios_are_round_by_round():
    fast, slow = Timing([1.0, 2.0, 1.0]), Timing([2.0, 2.0, 4.0])
    assert pair_ratios(fast, slow) == [2.0, 1.0, 4.0]
    text = report({"fast": fast, "slow": slow}, batch=4)
    assert "fast is 2.00 times as fast as slow (median of 3 rounds, 1.00 to 4.00)" in text
    assert "4.00" in text.splitlines()[1]  # clips a second at the median of 1 s


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:swin4d", "torchvision has no video model swin4d: it has"),
        ("timm:deit_giant", "timm has no model deit_giant: of that family it has"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_unknown_models_are_a_sentence(name, message):
    with pytest.raises(UserError, match=message):
        build_contender(name)


@pytest.fixture
def program():
    """Return a function that compares models in one round: its exit status, output and errors."""

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


def test_what_a_peer_cannot_take_is_a_sentence(program):
    status, _, errors = program("timm:deit_tiny_patch16_224", "--size", "2", "32", "32")
    assert (status, errors.count("\n")) == (2, 1)
    sentence = "timm:deit_tiny_patch16_224 cannot run on an input of 1 x 3 x 2 x 32 x 32 ("
    assert sentence in errors
    assert "give another --size" in errors


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
def test_the_size_is_that_of_the_first_config(names, train, size):
    assert default_size(names, train=train) == size


def test_overrides_change_the_size():
    overrides = ("DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", "160")
    assert default_size(["configs/k400/swin_t.yaml"], overrides=overrides) == (4, 160, 160)


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_peers_of_timm_are_built_for_the_size(name):
    model = build_contender(f"timm:{name}", size=(1, 96, 64)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 64)).shape == (1, 1000)


def test_a_size_that_a_peer_cannot_be_built_for_is_a_sentence():
    sentence = (
        r"timm:xcit\w+ cannot be built for images of 100 x 100 \(.*\): give another --size\.$"
    )
    with pytest.raises(UserError, match=sentence):
        build_contender("timm:xcit_nano_12_p16_224", size=(1, 100, 100))


@pytest.mark.parametrize(("name", "error"), [("timm:broken", UserError), ("ours", ValueError)])
def test_only_the_failure_of_a_peer_is_a_sentence(name, error):
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("no such size.\nAnd more")

    with pytest.raises(error, match="no such size") as raised:
        compare({name: Broken()}, torch.zeros(2, 3, 8, 8), rounds=1)
    if error is UserError:
        assert str(raised.value) == (
            "timm:broken cannot run on an input of 2 x 3 x 8 x 8 (no such size): give another "
            "--size or --batch."
        )


@pytest.mark.parametrize("train", [False, True])
def test_of_a_detector_the_backbone_is_timed(train):
    backbone = build_contender("configs/demo/swin_shapes.yaml")
    maps = backbone(torch.zeros(1, 3, 40, 56))
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(10, 14), (5, 7), (3, 4)]
    timings = compare({"swin": backbone}, torch.zeros(1, 3, 40, 56), rounds=1, train=train)
    assert len(timings["swin"].seconds) == 1
