"""Models against each other: what is built, what is timed, what is written of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stvit_video.engine.benchmark import Timing, build_contender, compare, pair_ratios, report
from stvit_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_program_compares_image_models():
    models = ("configs/imagenet/deit_t.yaml", "timm:deit_tiny_patch16_224")
    command = [sys.executable, "tools/benchmark.py", *models, "--size", "1", "224", "224"]
    run = subprocess.run(
        [*command, "--rounds", "1", "--keep-memory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert f"{models[0]} is " in run.stdout
    assert "freed memory kept" in run.stdout


@pytest.mark.parametrize("train", [False, True])
def test_of_a_detector_the_backbone_is_timed(train):
    backbone = build_contender("configs/demo/swin_shapes.yaml")
    maps = backbone(torch.zeros(1, 3, 40, 56))
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(10, 14), (5, 7), (3, 4)]
    timings = compare({"swin": backbone}, torch.zeros(1, 3, 40, 56), rounds=1, train=train)
    assert len(timings["swin"].seconds) == 1
