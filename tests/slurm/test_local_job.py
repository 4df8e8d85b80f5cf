"""Jobs on this machine without SLURM (--local)."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stvit_video.config import load_config
from stvit_video.engine.checkpoint import find_checkpoints
from stvit_video.engine.evaluate import evaluate
from stvit_video.models import build_model, save_weights
from stvit_video.runtime.distributed import run_ranks
from stvit_video.slurm.status import JobRecord, job_info, read_job_records
from stvit_video.slurm.task import rank_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(config_file, tmp_path):
    """Return a function that starts the program in its own process.

    Jobs that are still running at the end of the test are killed.
    """

    def run(*arguments):
        command = [sys.executable, str(ROOT / "slurm" / "launch.py"), "--cfg", str(config_file)]
        env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.Popen(
            [*command, "--local", "TEST.ENABLE", "False", *arguments],
            cwd=tmp_path,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            # A shell makes background processes ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    yield run
    for record in read_job_records(tmp_path / "output" / "jobs"):
        if not job_info(record).is_over:
            job = psutil.Process(int(record.job_id))
            for process in (job, *job.children(recursive=True)):
                process.kill()


def wait_until(condition, *, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ranks_of(record: JobRecord) -> list[psutil.Process]:
    """Return the rank processes that a job has spawned so far."""
    children = psutil.Process(int(record.job_id)).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def is_gone(process: psutil.Process) -> bool:
    # An orphan may remain a zombie if its new parent does not reap it.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_two_ranks_run_the_copy_and_are_followed(start, tmp_path):
    with start("--follow", "NUM_GPUS", "2", "SOLVER.MAX_EPOCH", "1") as program:
        shown, _ = program.communicate(timeout=180)
    assert program.returncode == 0
    assert "Training for 1 epochs of 2 steps; clips a step: 4; ranks: 2" in shown
    assert shown.splitlines()[-1].endswith(": COMPLETED")
    (record,) = read_job_records(tmp_path / "output" / "jobs")
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    # Python writes compiled files next to the modules that it imports.
    assert list((record.folder / "code" / "stvit_video" / "engine").glob("__pycache__/train.*"))
    assert list(find_checkpoints(tmp_path / "run")) == [(1, 0)]
    # The config is also next to the results, as with tools/run_net.py.
    assert load_config(tmp_path / "run" / "config.yaml") == load_config(
        record.folder / "config.yaml"
    )


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_it_outlives_the_program_and_stops_at_a_step_on_a_signal(start, tmp_path, ranks):
    """Ctrl-C during --follow also reaches the job, which ignores it; SIGTERM stops it."""
    with start("--follow", "NUM_GPUS", ranks, "SOLVER.MAX_EPOCH", "1000") as program:
        wait_until(lambda: (tmp_path / "run" / "json_stats.log").exists())
        (record,) = read_job_records(tmp_path / "output" / "jobs")
        for process in (program.pid, int(record.job_id)):
            os.kill(process, signal.SIGINT)
        shown, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert f"The job keeps running: --status shows it, and `kill {record.job_id}` stops it" in shown
    assert job_info(record).state == "RUNNING"
    os.kill(int(record.job_id), signal.SIGTERM)
    wait_until(lambda: job_info(record).is_over)
    assert "Stopped on request" in record.log().read_text()
    newest = list(find_checkpoints(tmp_path / "run"))[-1]
    assert newest.epochs + newest.steps > 0


def test_it_stops_on_a_signal_while_its_ranks_start(start, tmp_path):
    with start("NUM_GPUS", "2") as program:
        assert program.wait(120) == 0
    (record,) = read_job_records(tmp_path / "output" / "jobs")
    wait_until(lambda: len(ranks_of(record)) == 2)
    os.kill(int(record.job_id), signal.SIGTERM)
    wait_until(lambda: job_info(record).is_over)
    log = (record.folder / "logs" / "rank_00000.log").read_text()
    assert "Stopped by a signal before the start" in log
    assert json.loads(rank_record(record.folder, 0).read_text())["ending"] == "stopped"


def test_a_test_resumes_where_it_was_stopped(start, config_file, video_folder, tmp_path):
    data = tmp_path / "videos"
    shutil.copytree(video_folder, data)
    (data / "test.csv").write_text("".join(f"{line % 8}.mp4 {line % 3}\n" for line in range(160)))
    save_weights(build_model(load_config(config_file)), tmp_path / "w.safetensors")
    options = ("TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "NUM_GPUS", "2")
    files = ("DATA.PATH_TO_DATA_DIR", str(data), "TEST.CHECKPOINT_FILE_PATH", "w.safetensors")
    stats, log = (tmp_path / "run" / name for name in ("json_stats.log", "stdout.log"))
    with start(*options, *files) as program:
        assert program.wait(120) == 0
    wait_until(lambda: stats.exists() and stats.read_text().count("test_iter") >= 5)
    (record,) = read_job_records(tmp_path / "output" / "jobs")
    os.kill(int(record.job_id), signal.SIGTERM)
    wait_until(lambda: job_info(record).is_over)
    assert "run it again to test the remaining videos" in log.read_text()
    assert len(list((tmp_path / "run" / "stopped_test").glob("*.npz"))) == 2
    with start("--follow", *options, *files) as program:
        assert program.wait(180) == 0
    assert re.search(r"Resuming a stopped test: [1-9]\d* videos are done", log.read_text())
    whole = load_config(record.folder / "config.yaml", ["OUTPUT_DIR", str(tmp_path / "whole")])
    run_ranks(evaluate, whole, num_local_ranks=2, device="cpu")
    for name in ("predictions.csv", "summary.json", "per_class.csv"):
        results = (tmp_path / folder / "results" / name for folder in ("run", "whole"))
        one, other = (path.read_bytes() for path in results)
        assert one == other, name
    assert not (tmp_path / "run" / "stopped_test").exists()


def test_a_job_that_is_killed_leaves_no_process_behind(start, tmp_path):
    options = ("NUM_GPUS", "2", "DATA_LOADER.NUM_WORKERS", "1", "SOLVER.MAX_EPOCH", "1000")
    with start(*options) as program:
        assert program.wait(120) == 0
    (record,) = read_job_records(tmp_path / "output" / "jobs")
    wait_until(lambda: (tmp_path / "run" / "json_stats.log").exists())
    controller = psutil.Process(int(record.job_id))
    processes = controller.children(recursive=True)
    assert len(processes) > 1 + 2 * 2
    controller.kill()
    try:
        wait_until(lambda: all(map(is_gone, processes)), seconds=30)
    finally:
        for process in processes:
            if process.is_running():
                process.kill()
