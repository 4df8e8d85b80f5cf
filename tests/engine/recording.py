"""Training and test functions for ranks in tests, importable by spawned and forked processes."""

import json
from math import inf
from pathlib import Path
from unittest import mock

from stvit_video.engine import metrics
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.step import TrainingStep
from stvit_video.engine.train import train
from stvit_video.runtime import distributed


def train_recording(cfg):
    """Train, and write the statistics unrounded to lines.json."""
    lines = []
    with mock.patch.object(metrics, "log_json_stats", lambda line, **_: lines.append(dict(line))):
        train(cfg)
    if distributed.is_main():
        (Path(cfg.OUTPUT_DIR) / "lines.json").write_text(json.dumps(lines))


def train_recording_and_test(cfg):
    train_recording(cfg)
    evaluate(cfg)


def lines_file(cfg):
    return Path(cfg.OUTPUT_DIR) / "lines.jsonl"


def train_appending(cfg, *, stop_after=None):
    """Train, and append the statistics unrounded to lines.jsonl as they are logged.

    The last rank requests a stop from its call number `stop_after` of `should_stop` on.
    """
    calls = 0

    def append(line, **_):
        if distributed.is_main():
            with lines_file(cfg).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def should_stop():
        nonlocal calls
        calls += 1
        return (
            calls >= (stop_after or inf)
            and distributed.get_rank() == distributed.get_world_size() - 1
        )

    with mock.patch.object(metrics, "log_json_stats", append):
        train(cfg, should_stop=should_stop)


def train_in_turn(runs):
    """Train several pairs of a config and the number of steps before a stop (None: no stop)."""
    for cfg, stop_after in runs:
        train_appending(cfg, stop_after=stop_after)


def test_in_turn(runs):
    """Test several pairs of a config and the number of batches before a stop (None: no stop).

    The last rank requests the stop.
    """
    for cfg, stop_after in runs:
        calls = iter(range(1, 99))
        is_last = distributed.get_rank() == distributed.get_world_size() - 1
        # should_stop is called before each batch and once after the last one.
        limit = (stop_after or inf) if is_last else inf
        evaluate(cfg, should_stop=lambda calls=calls, limit=limit: next(calls) > limit)


def train_with_a_bad_loss_on_the_last_rank(cfg):
    """Train with a NaN loss in the third step of the last rank."""
    forward_backward, passes = TrainingStep._forward_backward, 0

    def return_nan(self, *arguments, **options):
        nonlocal passes
        passes += 1
        measured = forward_backward(self, *arguments, **options)
        if passes == 3 and distributed.get_rank() == distributed.get_world_size() - 1:
            measured["loss"] = measured["loss"] * float("nan")
        return measured

    with mock.patch.object(TrainingStep, "_forward_backward", return_nan):
        train(cfg)
