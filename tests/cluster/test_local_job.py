"""A job on this machine, without SLURM: the same folder, and the same code in the ranks."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stvit_video.cluster.job_record import read_records
from stvit_video.cluster.status import job_facts
from stvit_video.engine.checkpoint import find_checkpoints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(config_file, tmp_path):
    """Return a function that starts the program in a process of its own.

    A job that outlives the program does not outlive the test, whatever became of that.
    """

    def run(*arguments):
        command = [sys.executable, str(ROOT / "slurm" / "launch.py"), "--cfg", str(config_file)]
        env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.Popen(
            [*command, "--local", *arguments, "TEST.ENABLE", "False"],
            cwd=tmp_path,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            # What a shell starts in the background ignores Ctrl-C, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    yield run
    for record in read_records(tmp_path / "output" / "jobs"):
        if not job_facts(record).is_over:
            job = psutil.Process(int(record.job_id))
            for process in (job, *job.children(recursive=True)):
                process.kill()


def wait_until(condition, *, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_ranks_run_the_copy_and_are_followed(start, tmp_path):
    with start("--follow", "NUM_GPUS", "2", "SOLVER.MAX_EPOCH", "1") as program:
        shown, _ = program.communicate(timeout=180)
    assert program.returncode == 0
    assert "Training for 1 epochs of 2 steps; clips a step: 4; ranks: 2" in shown
    assert shown.splitlines()[-1].endswith(": COMPLETED")
    (record,) = read_records(tmp_path / "output" / "jobs")
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    # Python leaves compiled files beside what it imports.
    assert list((record.folder / "code" / "stvit_video" / "engine").glob("__pycache__/train.*"))
    assert list(find_checkpoints(tmp_path / "run")) == [(1, 0)]


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_it_outlives_the_program_and_ends_at_a_step_when_asked(start, tmp_path, ranks):
    """Ctrl-C at --follow reaches the job too, which goes on; SIGTERM makes it stop."""
    with start("--follow", "NUM_GPUS", ranks, "SOLVER.MAX_EPOCH", "1000") as program:
        wait_until(lambda: (tmp_path / "run" / "json_stats.log").exists())
        (record,) = read_records(tmp_path / "output" / "jobs")
        for process in (program.pid, int(record.job_id)):
            os.kill(process, signal.SIGINT)
        shown, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert f"The job goes on: --status shows it, and `kill {record.job_id}` ends it" in shown
    assert job_facts(record).state == "RUNNING"
    os.kill(int(record.job_id), signal.SIGTERM)
    wait_until(lambda: job_facts(record).is_over)
    assert "Stopped as asked" in record.log().read_text()
    newest = list(find_checkpoints(tmp_path / "run"))[-1]
    assert newest.epochs + newest.steps > 0
