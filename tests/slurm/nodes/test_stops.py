"""A job that SLURM stops, in any way, resumes and gives the results of an uninterrupted run."""

import math
import os
import re
import signal
import time
from contextlib import suppress

import pytest
from cluster import wait_for
from jobs import assert_same_run, late_rank

from stvit_video.config import load_config
from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint
from stvit_video.models import build_model, save_weights

# Short runs of 10 steps, for jobs that are stopped before the first step.
STEPS = 10
SHORT = ("SOLVER.MAX_EPOCH", "1", "DATA_LOADER.NUM_WORKERS", "0")


def test_several_signals_requeue_once(cluster, launch, whole):
    job = launch("usr2")
    job.wait_for_step(4)
    # To the ranks, to the shell that runs srun, and to both.
    for whom in ([], ["--batch"], ["--full"], []):
        cluster.run("scancel", "--signal=USR2", *whom, job.id)
    job.wait()
    assert job.info.restarts == 1
    assert job.endings == ""
    assert_same_run(job, whole)


@pytest.mark.parametrize("signal_name", ["USR2", "TERM"])
def test_a_signal_before_all_ranks_have_started(launch, tmp_path, signal_name):
    with late_rank(tmp_path) as late:
        job = launch(f"early {signal_name}", *SHORT)
    job.wait_for_rank(0)
    for process in (late.process, job.process(0)):
        os.kill(process, signal.Signals[f"SIG{signal_name}"])
    job.wait()
    assert job.info.restarts == 1
    assert "Of 2 ranks, some ended before they had started: 1. The job is requeued" in job.endings
    assert job.steps == STEPS


def test_a_stopped_test_resumes_with_the_remaining_videos(cluster, launch, tmp_path):
    videos = (f"{launch.folder}/videos/{line % 8}.mp4 {line % 3}" for line in range(300))
    (tmp_path / "test.csv").write_text("\n".join(videos))
    save_weights(build_model(load_config(launch.config)), tmp_path / "w.safetensors")
    job = launch(
        *("test", "TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "EMA.ENABLE", "False"),
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path)),
        *("TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "w.safetensors")),
    )
    wait_for(lambda: num_batches(job) >= 5, "the fifth batch", details=job.describe)
    cluster.run("scancel", "--signal=USR2", job.id)
    job.wait()
    assert job.info.restarts == 1
    going_on = re.search(r"Resuming a stopped test: (\d+) videos are", job.log())
    left = 300 - int(going_on[1])
    # A batch is one video; rank 0 tests half of the remaining videos.
    half = math.ceil(left / 2)
    batches = [line["iter"] for line in job.lines() if line["_type"] == "test_iter"]
    assert batches[-1] == f"{half}/{half}"
    assert batches[-half - 1].endswith("/150")
    assert 0 < left < 295
    assert (job.output_dir / "results" / "summary.json").exists()
    assert not (job.output_dir / "stopped_test").exists()


def num_batches(job):
    return sum(line["_type"] == "test_iter" for line in job.lines())


def test_a_signal_while_ranks_wait_for_each_other(launch, tmp_path):
    with late_rank(tmp_path) as late:
        job = launch("early", *SHORT)
    job.wait_for_rank(0)
    os.kill(job.process(0), signal.SIGUSR2)
    late.let_go()
    job.wait()
    assert job.info.restarts == 1
    assert job.log().count("Stopped by a signal before the start") == 1
    assert job.endings == ""
    assert job.steps == STEPS


def test_a_requeue_by_the_user_is_not_repeated(cluster, launch, whole):
    job = launch("requeued")
    job.wait_for_step(4)
    cluster.run("scontrol", "requeue", job.id)
    job.wait()
    assert job.info.restarts == 1
    assert "SLURM has already requeued or canceled the job" in job.log()
    assert_same_run(job, whole)


@pytest.mark.parametrize("signal_name", ["TERM", "USR2"])
def test_preemption_by_a_partition_of_higher_priority(cluster, launch, whole, signal_name):
    parameters = {"TERM": "enable_configless", "USR2": "preempt_send_user_signal"}
    cluster.configure(controller=parameters[signal_name])
    job = launch(f"preempted {signal_name}")
    job.wait_for_step(4)
    urgent = ("--partition=high", "--nodes=4", "--cpus-per-task=4", "--output=/dev/null")
    urgent_id = cluster.run("sbatch", "--parsable", *urgent, "--wrap=sleep 1")
    job.wait()
    assert cluster.job(urgent_id)["JobState"] == "COMPLETED"
    assert job.info.restarts == 1
    # It stopped by itself within the grace time.
    assert "The job is requeued" in job.log()
    assert_same_run(job, whole)


def test_a_time_limit_that_is_shorter_than_the_job(cluster, launch, whole):
    job = launch("time limit", flags=("--time", "1", "--timeout-s", "120"))
    job.wait_for_step(1)
    # SLURM's signal comes 15 to 45 s after the start, so the job is slowed down until then.
    slow_down(
        [job.process(rank) for rank in (0, 1)],
        until=lambda: job.info.restarts or cluster.job(job.id)["RunTime"] > "00:00:46",
    )
    job.wait_for_requeue(1)
    # On a slow machine, limits of one minute would take many starts.
    cluster.run("scontrol", "update", f"jobid={job.id}", "timelimit=10")
    job.wait()
    assert job.info.restarts == job.log().count("The job is requeued") == 1
    assert job.endings == ""
    assert_same_run(job, whole)


def test_a_node_that_goes_down(cluster, launch, whole):
    job = launch("node down")
    job.wait_for_step(5)
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    job.wait_for_requeue(1)
    job.wait()
    cluster.run("scontrol", "update", "nodename=n2", "state=resume", check=False)
    assert job.info.restarts == 1
    assert_same_run(job, whole)


def test_a_job_at_its_requeue_limit_ends_with_a_checkpoint(cluster, launch):
    job = launch("bound", flags=("--max-requeues", "0"), nodes=1)
    job.wait_for_step(3)
    cluster.run("scancel", "--signal=USR1", job.id)
    job.wait("FAILED")
    assert job.info.restarts == 0
    assert (
        "The job is not requeued, because it has been requeued 0 times already (--max-requeues)"
        in job.log()
    )
    newest = list(find_checkpoints(job.output_dir).values())[-1]
    assert len(read_checkpoint(newest)["recent_losses"]) == job.steps


def test_a_canceled_job_is_not_requeued(cluster, launch):
    job = launch("cancelled", nodes=1)
    job.wait_for_step(3)
    cluster.run("scancel", job.id)
    job.wait("CANCELLED")
    wait_for(
        lambda: "SLURM has already requeued or canceled the job" in job.log(),
        "the log of the cancellation",
    )
    assert job.info.restarts == 0


def slow_down(processes, *, until):
    """Suspend processes most of the time, until a condition holds."""

    def signal_all(number):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    try:
        while not until():
            signal_all(signal.SIGCONT)
            time.sleep(0.01)
            signal_all(signal.SIGSTOP)
            time.sleep(0.4)
    finally:
        signal_all(signal.SIGCONT)
