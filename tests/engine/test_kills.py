"""Test that a run killed repeatedly equals an uninterrupted run bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from comparing import same, without_times

from stvit_video.config import dump_config
from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint

HERE = Path(__file__).resolve().parent
KILLS = 10
EPOCHS = 5
STEPS = 8  # per epoch


def read_lines(folder):
    return [
        without_times(json.loads(line))
        for line in (folder / "lines.jsonl").read_text().split("\n")[:-1]
    ]


def line_key(line):
    return line["_type"], line["epoch"], line.get("iter")


def test_ten_kills_at_random_steps_change_nothing(video_config, tmp_path):
    cfg = video_config(
        # One video per step, and a checkpoint every two steps.
        *("TRAIN.BATCH_SIZE", "1", "SOLVER.MAX_EPOCH", str(EPOCHS), "TRAIN.CHECKPOINT_STEPS", "2"),
        *("DATA_LOADER.NUM_WORKERS", "2", "TRAIN.KEEP_LAST", "2"),
        # All stateful features: random numbers, weight average, loss guard, dynamic loss scale.
        *("MODEL.DROPOUT_RATE", "0.5", "MODEL.DROPCONNECT_RATE", "0.2"),
        *("EMA.ENABLE", "True", "EMA.DECAY", "0.9", "TRAIN.KILL_LOSS_EXPLOSION_FACTOR", "100"),
        *("TRAIN.MIXED_PRECISION", "True", "TRAIN.MIXED_PRECISION_DTYPE", "float16"),
    )
    dump_config(cfg, tmp_path / "config.yaml")
    kills = sorted(random.Random(0).sample(range(1, (EPOCHS - 1) * STEPS), KILLS))
    program = [HERE / "forking.py", tmp_path / "config.yaml", tmp_path]
    completed = subprocess.run(
        [sys.executable, *map(str, [*program, *kills])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr
    log = (tmp_path / "killed" / "stdout.log").read_text()
    assert log.count("Training for 5 epochs") == KILLS + 1
    assert log.count("Resuming from") > KILLS / 2
    assert log.count("steps\n") > KILLS / 4  # "after epoch 3 and 4 steps"

    # No temporary files of interrupted writes are left.
    assert not list((tmp_path / "killed").rglob("*.tmp"))

    whole, killed = (read_lines(tmp_path / name) for name in ("whole", "killed"))
    expected = {line_key(line): line for line in whole}
    assert len(expected) == len(whole) == EPOCHS * (STEPS + 2)
    # Steps repeated after a kill are logged several times.
    assert len(killed) > len(whole)
    assert {line_key(line) for line in killed} == expected.keys()
    assert all(line == expected[line_key(line)] for line in killed)

    checkpoints = [find_checkpoints(tmp_path / name) for name in ("whole", "killed")]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    one, other = (read_checkpoint(list(found.values())[-1]) for found in checkpoints)
    for contents in (one, other):
        del contents["cfg"]  # differs in OUTPUT_DIR
    assert same(one, other)
    assert one["scaler_state"]["scale"] != 65536
    assert one.keys() >= {"model_state", "optimizer_state", "ema_state", "random_states", "meters"}
