"""Stopping and going on in the middle of an epoch."""

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
    """Run several trainings, one after the other, each a config or (config, steps until a stop)."""
    pairs = [each if isinstance(each, tuple) else (each, None) for each in runs]
    run_ranks(train_in_turn, pairs, num_local_ranks=ranks, device="cpu")


def lines(cfg):
    file = lines_file(cfg)
    text = file.read_text() if file.exists() else ""
    return [without_times(json.loads(line)) for line in text.splitlines()]


def final(cfg):
    contents = read_checkpoint(list(find_checkpoints(cfg.OUTPUT_DIR).values())[-1])
    del contents["cfg"]
    return contents


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (1, ("TRAIN.BATCH_SIZE", "1", "TRAIN.ACCUMULATE_STEPS", "2")),
        # The log's window is 3 steps, so the stop falls into the middle of one.
        (1, ("TRAIN.BATCH_SIZE", "2", "DATA_LOADER.NUM_WORKERS", "1", "LOG_PERIOD", "3")),
        (2, ("TRAIN.BATCH_SIZE", "2", "NUM_GPUS", "2")),
    ],
    ids=["accumulating", "worker", "two ranks"],
)
def test_a_run_that_was_stopped_goes_on_at_its_step(video_config, tmp_path, ranks, overrides):
    # 4 steps an epoch.
    whole, stopped = (
        video_config(*STOCHASTIC, *overrides, "OUTPUT_DIR", str(tmp_path / name))
        for name in ("whole", "stopped")
    )
    # In the same processes, because starting ranks takes longer than all of this.
    run(whole, (stopped, 2), stopped, ranks=ranks)
    log = (Path(stopped.OUTPUT_DIR) / "stdout.log").read_text()
    assert "checkpoint_epoch_00000_step_000002.pyth, after epoch 0 and 2 steps\n" in log
    # No line is written twice, because none came after the checkpoint.
    assert lines(stopped) == lines(whole)
    assert same(final(stopped), final(whole))


def test_a_stop_at_the_end_of_an_epoch_leaves_its_validation_for_later(video_config, tmp_path):
    whole = video_config("OUTPUT_DIR", str(tmp_path / "whole"))
    run(whole)
    stopped = video_config("TRAIN.CHECKPOINT_PERIOD", "2")  # so that none is due after epoch 1
    run((stopped, 2))
    assert [*find_checkpoints(stopped.OUTPUT_DIR)] == [(1, 0)]
    assert [line["_type"] for line in lines(stopped)] == ["train_iter", "train_iter", "train_epoch"]
    run(stopped)
    assert lines(stopped) == lines(whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_in_a_validation_does_it_again_later(video_config, tmp_path, ranks):
    whole, stopped = (
        video_config("NUM_GPUS", str(ranks), "OUTPUT_DIR", str(tmp_path / name))
        for name in ("whole", "stopped")
    )
    # Asked after each of the two steps, and then by the validation.
    run(whole, (stopped, 3), ranks=ranks)
    assert [line["_type"] for line in lines(stopped)] == ["train_iter", "train_iter", "train_epoch"]
    assert [*find_checkpoints(stopped.OUTPUT_DIR)] == [(1, 0)]
    run(stopped, ranks=ranks)
    assert lines(stopped) == lines(whole)
    assert same(final(stopped), final(whole))


def test_a_stop_in_a_validation_writes_the_checkpoint_that_was_not_due(video_config):
    run((video_config("TRAIN.CHECKPOINT_PERIOD", "2"), 3))
    assert [*find_checkpoints(video_config().OUTPUT_DIR)] == [(1, 0)]


def test_inside_an_epoch_the_steps_must_stay_the_same(video_config):
    run((video_config("TRAIN.BATCH_SIZE", "2"), 2))
    with pytest.raises(UserError, match="epoch whose steps are 4, and here they are 2; go on with"):
        train(video_config("TRAIN.BATCH_SIZE", "4"))
    train(video_config("TRAIN.BATCH_SIZE", "1", "TRAIN.ACCUMULATE_STEPS", "2"))


def test_a_run_that_goes_on_says_that_it_reads_no_weights(video_config):
    run((video_config(), 2))
    run((video_config("TRAIN.CHECKPOINT_FILE_PATH", "none.pth"), 1))
    log = (Path(video_config().OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("TRAIN.CHECKPOINT_FILE_PATH is not read, as the run goes on") == 1


def test_checkpoints_inside_an_epoch_come_every_few_steps(video_config):
    cfg = video_config("TRAIN.BATCH_SIZE", "1", "TRAIN.CHECKPOINT_STEPS", "3")
    train(cfg)
    written = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    for epoch in (0, 1):
        for step in range(1, 9):
            name = checkpoint_path(cfg.OUTPUT_DIR, epoch, step).name
            assert (f"{name}\n" in written) == (step in (3, 6))
    assert [*find_checkpoints(cfg.OUTPUT_DIR)] == [(1, 0), (1, 6), (2, 0)]
