"""Entry functions for ranks in tests; spawned and forked processes import them from here."""

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
    """Train, and keep the statistics with all their digits, which the log rounds."""
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
    """Train as `train_recording`, but write each line at once, after those of earlier starts.

    The last rank asks for a stop from the so-manieth time on that it is asked.
    """
    steps = 0

    def append(line, **_):
        if distributed.is_main():
            with lines_file(cfg).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def should_stop():
        nonlocal steps
        steps += 1
        return (
            steps >= (stop_after or inf)
            and distributed.get_rank() == distributed.get_world_size() - 1
        )

    with mock.patch.object(metrics, "log_json_stats", append):
        train(cfg, should_stop=should_stop)


def train_in_turn(runs):
    """Run several trainings, pairs of a config and after how many steps to stop (None: never)."""
    for cfg, stop_after in runs:
        train_appending(cfg, stop_after=stop_after)


def test_in_turn(runs):
    """Run several tests, pairs of a config and after how many batches to stop (None: never).

    The last rank is asked to stop.
    """
    for cfg, stop_after in runs:
        asked = iter(range(1, 99))
        is_last = distributed.get_rank() == distributed.get_world_size() - 1
        # Asked before each batch, and then whether to go on.
        limit = (stop_after or inf) if is_last else inf
        evaluate(cfg, should_stop=lambda asked=asked, limit=limit: next(asked) > limit)


def train_with_a_bad_loss_on_the_last_rank(cfg):
    """Train, with a loss that is NaN in the third step of the last rank alone."""
    forward_backward, passes = TrainingStep._forward_backward, 0

    def spoiled(self, *arguments, **options):
        nonlocal passes
        passes += 1
        measured = forward_backward(self, *arguments, **options)
        if passes == 3 and distributed.get_rank() == distributed.get_world_size() - 1:
            measured["loss"] = measured["loss"] * float("nan")
        return measured

    with mock.patch.object(TrainingStep, "_forward_backward", spoiled):
        train(cfg)
