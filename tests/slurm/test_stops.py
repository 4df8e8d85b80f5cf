"""A job that is stopped in any of SLURM's ways goes on as if nothing had been."""

import os
import signal
import time
from contextlib import suppress

import pytest
from cluster import wait_for
from jobs import assert_same_run

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint


def test_a_signal_requeues_once_however_many_arrive(cluster, launch, whole):
    job = launch("usr2")
    job.wait_for_step(4)
    # To the ranks, to the shell that waits for them, and to both.
    for whom in ([], ["--batch"], ["--full"], []):
        cluster.run("scancel", "--signal=USR2", *whom, job.id)
    job.wait()
    assert job.facts.restarts == 1
    assert job.endings == ""
    assert_same_run(job, whole)


def test_a_requeue_by_somebody_else_is_the_only_one(cluster, launch, whole):
    job = launch("requeued")
    job.wait_for_step(4)
    cluster.run("scontrol", "requeue", job.id)
    job.wait()
    assert job.facts.restarts == 1
    assert "SLURM has requeued or cancelled the job" in job.log()
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
    assert job.facts.restarts == 1
    # It did not wait for the end of its grace.
    assert "The job is requeued" in job.log()
    assert_same_run(job, whole)


def test_a_time_limit_that_is_shorter_than_the_job(launch, whole):
    job = launch("time limit", flags=("--time", "1", "--timeout-s", "120"))
    job.wait_for_step(1)
    # SLURM's warning comes 15 to 45 s after the start, so the machine must be a slow one.
    while job.facts.restarts == 0:
        slow_down([job.process(rank) for rank in (0, 1)])
    job.wait()
    assert job.facts.restarts == job.log().count("The job is requeued") >= 1
    assert job.endings == ""
    assert_same_run(job, whole)


def test_a_node_that_goes_down(cluster, launch, whole):
    job = launch("node down")
    job.wait_for_step(5)
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    job.wait_for_requeue(1)
    job.wait()
    cluster.run("scontrol", "update", "nodename=n2", "state=resume", check=False)
    assert job.facts.restarts == 1
    assert_same_run(job, whole)


def test_a_job_that_was_requeued_too_often_ends_with_a_checkpoint(cluster, launch):
    job = launch("bound", flags=("--max-requeues", "0"))
    job.wait_for_step(3)
    cluster.run("scancel", "--signal=USR1", job.id)
    job.wait("FAILED")
    assert job.facts.restarts == 0
    assert "The job is not requeued, as it has been 0 times already (--max-requeues)" in job.log()
    newest = list(find_checkpoints(job.output_dir).values())[-1]
    assert len(read_checkpoint(newest)["recent_losses"]) == job.steps


def test_a_job_that_is_cancelled_stays_so(cluster, launch):
    job = launch("cancelled")
    job.wait_for_step(3)
    cluster.run("scancel", job.id)
    job.wait("CANCELLED")
    wait_for(lambda: "SLURM has requeued or cancelled the job" in job.log(), "the last word")
    assert job.facts.restarts == 0


def slow_down(processes):
    """Let processes run for a fifth of the next 0.2 s."""
    for number, seconds in ((signal.SIGSTOP, 0.16), (signal.SIGCONT, 0.04)):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        time.sleep(seconds)
