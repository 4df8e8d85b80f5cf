"""Test stopping and resuming, inside an epoch and in a validation."""

import json
from pathlib import Path

import pytest
from comparing import same, without_times
from recording import lines_file, train_in_turn

from stvit_video.engine.checkpoint import checkpoint_path, find_checkpoints, read_checkpoint
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.runtime.distributed import run_ranks

STOCHASTIC = ("MODEL.DROPOUT_RATE", "0.5", "MODEL.DROPCONNECT_RATE", "0.2")


def run(*runs, ranks=1):
    """Train one after another; each run is a config or (config, steps before a stop)."""
    pairs = [each if isinstance(each, tuple) else (each, None) for each in runs]
    run_ranks(train_in_turn, pairs, num_local_ranks=ranks, device="cpu")


def read_lines(cfg):
    file = lines_file(cfg)
    text = file.read_text() if file.exists() else ""
    return [without_times(json.loads(line)) for line in text.splitlines()]


def last_checkpoint(cfg):
    contents = read_checkpoint(list(find_checkpoints(cfg.OUTPUT_DIR).values())[-1])
    del contents["cfg"]
    return contents


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (1, ("TRAIN.BATCH_SIZE", "1", "TRAIN.ACCUMULATE_STEPS", "2")),
        # The log period is 3 steps, so the stop after 2 steps is inside a period.
        (1, ("TRAIN.BATCH_SIZE", "2", "DATA_LOADER.NUM_WORKERS", "1", "LOG_PERIOD", "3")),
        (2, ("TRAIN.BATCH_SIZE", "2", "NUM_GPUS", "2")),
    ],
    ids=["accumulating", "worker", "two ranks"],
)
def test_a_stopped_run_resumes_at_its_step(video_config, tmp_path, ranks, overrides):
    # 4 steps per epoch.
    whole, stopped = (
        video_config(*STOCHASTIC, *overrides, "OUTPUT_DIR", str(tmp_path / name))
        for name in ("whole", "stopped")
    )
    # All runs share their processes, because starting ranks takes longer than the training.
    run(whole, (stopped, 2), stopped, ranks=ranks)
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert "checkpoint_epoch_00000_step_000002.pyth, after epoch 0 and 2 steps\n" in log
    # No line is written twice, because the run stopped right after the checkpoint.
    assert read_lines(stopped) == read_lines(whole)
    assert same(last_checkpoint(stopped), last_checkpoint(whole))


def test_a_stop_at_the_end_of_an_epoch_defers_its_validation(video_config, tmp_path):
    whole = video_config("OUTPUT_DIR", str(tmp_path / "whole"))
    run(whole)
    stopped = video_config("TRAIN.CHECKPOINT_PERIOD", "2")  # no checkpoint is due after epoch 1
    run((stopped, 2))
    assert [*find_checkpoints(stopped.OUTPUT_DIR)] == [(1, 0)]
    types = [line["_type"] for line in read_lines(stopped)]
    assert types == ["train_iter", "train_iter", "train_epoch"]
    run(stopped)
    assert read_lines(stopped) == read_lines(whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_interrupted_validation_is_repeated(video_config, tmp_path, ranks):
    whole, stopped = (
        video_config("NUM_GPUS", str(ranks), "OUTPUT_DIR", str(tmp_path / name))
        for name in ("whole", "stopped")
    )
    # The third call of should_stop, after those of the two steps, is in the validation.
    run(whole, (stopped, 3), ranks=ranks)
    types = [line["_type"] for line in read_lines(stopped)]
    assert types == ["train_iter", "train_iter", "train_epoch"]
    assert [*find_checkpoints(stopped.OUTPUT_DIR)] == [(1, 0)]
    run(stopped, ranks=ranks)
    assert read_lines(stopped) == read_lines(whole)
    assert same(last_checkpoint(stopped), last_checkpoint(whole))


def test_an_interrupted_validation_saves_a_checkpoint_that_was_not_due(video_config):
    run((video_config("TRAIN.CHECKPOINT_PERIOD", "2"), 3))
    assert [*find_checkpoints(video_config().OUTPUT_DIR)] == [(1, 0)]


def test_steps_must_not_change_inside_an_epoch(video_config):
    run((video_config("TRAIN.BATCH_SIZE", "2"), 2))
    with pytest.raises(UserError, match="epoch of 4 steps, but this run has 2; resume with"):
        train(video_config("TRAIN.BATCH_SIZE", "4"))
    train(video_config("TRAIN.BATCH_SIZE", "1", "TRAIN.ACCUMULATE_STEPS", "2"))


def test_a_resumed_run_logs_that_it_reads_no_weights(video_config):
    run((video_config(), 2))
    run((video_config("TRAIN.CHECKPOINT_FILE_PATH", "none.pth"), 1))
    log = (Path(video_config().OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("TRAIN.CHECKPOINT_FILE_PATH is not read because the run resumes") == 1


def test_checkpoints_inside_an_epoch_follow_the_period(video_config):
    cfg = video_config("TRAIN.BATCH_SIZE", "1", "TRAIN.CHECKPOINT_STEPS", "3")
    train(cfg)
    written = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    for epoch in (0, 1):
        for step in range(1, 9):
            name = checkpoint_path(cfg.OUTPUT_DIR, epoch, step).name
            assert (f"{name}\n" in written) == (step in (3, 6))
    assert [*find_checkpoints(cfg.OUTPUT_DIR)] == [(1, 0), (1, 6), (2, 0)]
