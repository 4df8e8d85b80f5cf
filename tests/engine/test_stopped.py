"""Test that bad losses stop a run, and that it saves the state before the bad step."""

import math
import re

import pytest
import torch
from recording import train_with_a_bad_loss_on_the_last_rank

from stvit_video.engine.checkpoint import find_checkpoints, is_full_checkpoint
from stvit_video.engine.state import LossGuard
from stvit_video.engine.train import train
from stvit_video.errors import UserError
from stvit_video.runtime.distributed import run_ranks


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_must_be_finite(loss):
    guard = LossGuard()
    assert guard.check(loss) == f"the loss became {loss}"
    assert guard.recent == []


def test_a_loss_must_not_explode():
    guard = LossGuard(factor=3.0)
    # The fifth loss has too few predecessors to compare it with.
    assert [guard.check(loss) for loss in (9.0, 1.0, 1.0, 1.0, 50.0, 1.0, 1.0)] == [""] * 7
    # The median is still 1, as a single high loss hardly changes it.
    assert guard.check(3.0) == ""
    assert guard.check(3.1).startswith("the loss rose to 3.1, more than 3 times (TRAIN.KILL")
    assert guard.recent == [9.0, 1.0, 1.0, 1.0, 50.0, 1.0, 1.0, 3.0]
    for _ in range(30):
        assert guard.check(2.0) == ""
    assert guard.recent == [2.0] * 20
    assert LossGuard().check(1e30) == ""


def train_until_stopped(cfg, run=train):
    """Train until a bad loss; return its message, and the path and contents of the saved file."""
    with pytest.raises(UserError) as stopped:
        run(cfg)
    path = re.search(r"The state before this step is in (\S+\.pyth)\.", str(stopped.value))[1]
    return str(stopped.value), path, torch.load(path, map_location="cpu", weights_only=True)


def test_resuming_before_a_loss_explosion_reproduces_it(video_config, tmp_path):
    explode = (
        *("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", "10.0", "TRAIN.BATCH_SIZE", "1"),
        *("TRAIN.KILL_LOSS_EXPLOSION_FACTOR", "3", "MODEL.DROPOUT_RATE", "0.5"),
    )
    cfg = video_config(*explode)
    message, path, contents = train_until_stopped(cfg)
    stopped = contents["stopped"]
    (rank,) = stopped["ranks"]
    assert f"with the videos {rank['video_name'][0]}. The state" in message
    assert message.startswith(f"Training stopped because {stopped['problem']} in epoch")
    assert (len(rank["video_index"]), len(rank["clip_index"]), len(rank["label"])) == (1, 1, 1)
    # A run does not resume from this file automatically, but can if the config names it.
    assert path not in map(str, find_checkpoints(cfg.OUTPUT_DIR).values())
    assert is_full_checkpoint(path)
    again = video_config(
        *("OUTPUT_DIR", str(tmp_path / "again"), "TRAIN.CHECKPOINT_FILE_PATH", path), *explode
    )
    message_again, _, contents_again = train_until_stopped(again)
    assert message_again.replace(str(tmp_path / "again"), cfg.OUTPUT_DIR) == message
    assert contents_again["stopped"] == stopped


def test_nan_on_one_rank_stops_all_ranks_and_names_its_videos(video_config):
    cfg = video_config("NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2", "EMA.ENABLE", "True")

    def run(cfg):
        run_ranks(train_with_a_bad_loss_on_the_last_rank, cfg, num_local_ranks=2, device="cpu")

    message, _, contents = train_until_stopped(cfg, run)
    assert "the loss became nan in epoch 1 at step 3" in message
    good, bad = contents["stopped"]["ranks"]
    assert math.isfinite(good["loss"])
    assert math.isnan(bad["loss"])
    assert f"with the videos {bad['video_name'][0]}. The state" in message
    assert good["video_name"] != bad["video_name"]
    assert (contents["epoch"], contents["step"]) == (-1, 2)
    assert len(contents["random_states"]) == len(contents["meters"]) == 2
    for key in ("model_state", "ema_state"):
        assert all(value.isfinite().all() for value in contents[key].values())
