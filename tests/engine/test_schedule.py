"""Test the learning rate schedule."""

import math

import pytest

from stvit_video.engine.schedule import Cosine, Schedule, Steps, build_schedule


def test_cosine_without_warm_up():
    schedule = Schedule(Cosine(0.1, 0.0, max_epoch=10))
    assert schedule(0) == pytest.approx(0.1)
    assert schedule(5) == pytest.approx(0.05)
    assert schedule(2.5) == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
    assert schedule(10) == pytest.approx(0.0)


def test_warm_up_ends_on_the_cosine():
    # PySlowFast's cosine starts at epoch 0, so the warm-up ends below the base learning rate.
    schedule = Schedule(Cosine(1e-3, 1e-5, max_epoch=30), warmup_epochs=2.5, warmup_start_lr=1e-6)
    end = 1e-5 + (1e-3 - 1e-5) * (math.cos(math.pi * 2.5 / 30) + 1) / 2
    assert schedule(0) == pytest.approx(1e-6)
    assert schedule(1.25) == pytest.approx((1e-6 + end) / 2)
    assert schedule(2.5) == pytest.approx(end)
    assert schedule(2.5 - 1e-9) == pytest.approx(end)


def test_cosine_after_warm_up_starts_at_the_base_learning_rate():
    schedule = Schedule(Cosine(0.2, 0.0, max_epoch=12, offset=2), warmup_epochs=2)
    assert schedule(1) == pytest.approx(0.1)
    assert schedule(2) == pytest.approx(0.2)
    assert schedule(7) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.1), (9.99, 0.1), (10, 0.01), (14.5, 0.01), (15, 0.001), (40, 0.001)]
)
def test_steps(epoch, lr):
    schedule = Schedule(Steps(0.1, steps=(0, 10, 15), factors=(1, 0.1, 0.01)))
    assert schedule(epoch) == pytest.approx(lr)


def test_shards_scale_all_learning_rates(small_config):
    solver = ("SOLVER.BASE_LR", "0.1", "SOLVER.COSINE_END_LR", "0.01", "SOLVER.MAX_EPOCH", "8")
    warm_up = ("SOLVER.WARMUP_EPOCHS", "2", "SOLVER.WARMUP_START_LR", "0.001")
    scaled = ("NUM_SHARDS", "4", "SOLVER.BASE_LR_SCALE_NUM_SHARDS", "True")
    one = build_schedule(small_config(*solver, *warm_up))
    four = build_schedule(small_config(*solver, *warm_up, *scaled))
    for epoch in (0, 1, 2, 5, 8):
        assert four(epoch) == pytest.approx(4 * one(epoch))


def test_the_config_selects_the_policy(small_config):
    solver = ("SOLVER.BASE_LR", "0.5", "SOLVER.WARMUP_EPOCHS", "0", "SOLVER.MAX_EPOCH", "4")
    steps = ("SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "(0, 3)")
    schedule = build_schedule(small_config(*solver, *steps, "SOLVER.LRS", "(1, 0.1)"))
    assert [schedule(epoch) for epoch in (0, 2.9, 3)] == pytest.approx([0.5, 0.5, 0.05])
