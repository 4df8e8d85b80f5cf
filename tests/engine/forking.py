"""Train in forks of one process that has imported everything, and kill some of them.

    python forking.py CONFIG.yaml OUTPUT_DIR STEP ...

trains a config without interruption in OUTPUT_DIR/whole. It then trains it again in
OUTPUT_DIR/killed and kills the training at each of the steps, which count from 1 over the whole run
and must increase. Starting a new Python process each time would take longer than the training.
"""

import json
import os
import random
import signal
import sys
import time

import torch
from recording import lines_file, train_appending

from stvit_video.config import load_config
from stvit_video.runtime.distributed import run_ranks


def start(cfg):
    """Fork a process that trains, and return its ID."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run_ranks(train_appending, cfg, num_local_ranks=1, device="cpu")
            status = 0
        finally:
            os._exit(status)
    return child


def newest_step(cfg, *, after):
    """Return the last step logged after the first ``after`` lines, or 0 if there is none."""
    file = lines_file(cfg)
    lines = file.read_text().split("\n")[after:-1] if file.exists() else []
    steps = [json.loads(line) for line in lines if "train_iter" in line]
    if not steps:
        return 0
    (epoch, _), (step, steps_per_epoch) = (
        map(int, steps[-1][key].split("/")) for key in ("epoch", "iter")
    )
    return (epoch - 1) * steps_per_epoch + step


def kill_at(cfg, step, *, delay):
    """Start a run, and kill it ``delay`` seconds after it has logged a step."""
    after = lines_file(cfg).read_text().count("\n") if lines_file(cfg).exists() else 0
    child = start(cfg)
    while newest_step(cfg, after=after) < step:
        ended, status = os.waitpid(child, os.WNOHANG)
        assert not ended, f"the training ended by itself with status {status}"
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def main(config, output_dir, *steps):
    torch.set_num_threads(1)
    whole, killed = (
        load_config(config, ["OUTPUT_DIR", f"{output_dir}/{name}"]) for name in ("whole", "killed")
    )
    assert os.waitpid(start(whole), 0)[1] == 0
    for step in steps:
        # The random delay kills some runs between steps, in validation or while saving.
        kill_at(killed, int(step), delay=random.uniform(0, 0.05))
    assert os.waitpid(start(killed), 0)[1] == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
