"""One rank in its own process, with the environment variables of SLURM and submitit."""

import os
import subprocess
import sys
import time

import pytest

from stvit_video.config import dump_config, load_config
from stvit_video.slurm import requeue
from stvit_video.slurm.task import FAILED, rank_log, read_rank_records

RUN = """
import sys
from pathlib import Path
from stvit_video.slurm.job import run_job
from stvit_video.slurm.task import RankJob
folder = Path(sys.argv[1])
run_job(RankJob(folder, folder / "config.yaml", 3, True, float(sys.argv[2])))
"""


@pytest.fixture
def start(config_file, tmp_path):
    """Return a function that starts the only rank of a job on node n7."""

    def begin(*overrides, timeout_s=60.0, **env):
        dump_config(load_config(config_file, overrides), tmp_path / "config.yaml")
        task = {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path)}
        task |= {"SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURMD_NODENAME": "n7"}
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path), str(timeout_s)],
            cwd=tmp_path,
            env={**os.environ, **task, **env},
        )

    return begin


@pytest.fixture
def run(start):
    """Return a function that runs the rank to its end, and returns its exit status."""

    def to_the_end(*overrides, **options):
        with start(*overrides, **options) as rank:
            return rank.wait(120)

    return to_the_end


def test_missing_gpus_are_not_a_user_error(run, tmp_path):
    gpus = ("DEVICE", "cuda", "NUM_GPUS", "2")
    assert run(*gpus, CUDA_VISIBLE_DEVICES="") != 0
    (record,) = read_rank_records(tmp_path, restarts=0)
    assert record.ending == FAILED
    assert record.reason.startswith(
        "node n7 shows 0 of 2 GPUs (NUM_GPUS; CUDA_VISIBLE_DEVICES is empty)"
    )
    sentence, may_help = requeue.find_cause([record], status=1, num_ranks=1)
    assert "--exclude n7" in sentence
    assert may_help
    log = rank_log(tmp_path, 0).read_text()
    assert record.reason in log
    assert "Traceback" not in log


def test_a_failed_checkpoint_write_is_not_a_user_error(run, tmp_path):
    """As on a full disk; here a file takes the place of the checkpoint folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    assert run("SOLVER.MAX_EPOCH", "1") != 0
    (record,) = read_rank_records(tmp_path, restarts=0)
    assert (record.ending, "could not be written" in record.reason) == (FAILED, True)


def test_a_rank_that_waits_for_others_logs_its_stack(run, tmp_path):
    alone = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    alone |= {"SLURM_NTASKS": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    assert run("NUM_GPUS", "2", timeout_s=10.0, **alone) != 0
    log = rank_log(tmp_path, 1).read_text()
    assert "Timeout (0:00:08)!" in log
    assert "rendezvous.py" in log
    assert "rank 1 did not find the other ranks" in log


def test_a_rank_that_hangs_before_its_first_step_logs_its_stack(start, tmp_path):
    """The rank blocks on the list of bad videos, a pipe that nobody writes to."""
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "quarantine.csv")
    log, deadline = rank_log(tmp_path, 0), time.monotonic() + 120
    with start(timeout_s=1.0) as rank:
        try:
            while not (log.exists() and "in read_bad_videos" in log.read_text()):
                assert rank.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            rank.kill()
    assert "Timeout (0:00:00.800000)!" in log.read_text()


def test_a_config_that_does_not_fit_the_data_is_a_user_error(run, tmp_path):
    assert run("TRAIN.ACCUMULATE_STEPS", "9") != 0
    (record,) = read_rank_records(tmp_path, restarts=0)
    assert record.ending == "mistake"
    assert "TRAIN.ACCUMULATE_STEPS is 9" in record.reason
