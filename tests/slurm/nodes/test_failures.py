"""Ranks and nodes that die or hang: the job reports it, or resumes without losing anything."""

import os
import re
import signal
import time

from cluster import wait_for
from jobs import assert_same_run

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint

# KillWait of the fixture's SLURM, and the time to detect the failure and report it.
KILL_SECONDS, SLACK_SECONDS = 10, 20
# --timeout-s of the job with a rank that hangs.
TIMEOUT_SECONDS = 20


def test_a_killed_rank_ends_the_job_with_a_report(launch):
    job = launch("killed")
    job.wait_for_step(4)
    os.kill(job.process(1), signal.SIGKILL)
    killed = time.monotonic()
    job.wait("FAILED")
    assert time.monotonic() - killed < KILL_SECONDS + SLACK_SECONDS
    log = re.escape(str(job.folder / "logs" / "rank_00001.log"))
    assert re.search(
        rf": Rank 1 on node n\d died without an error, .*; its log is {log}\. The job is not "
        r"requeued, because --requeue-on-failure is not set; submit it again to resume",
        job.endings,
    )
    assert job.endings.count("\n") == 1
    assert job.endings.partition(": ")[2].strip() in job.output
    assert job.info.restarts == 0


def test_rank_0_may_be_the_one_that_dies(launch, whole):
    job = launch("killed 0", flags=("--requeue-on-failure",))
    job.wait_for_step(4)
    os.kill(job.process(0), signal.SIGKILL)
    job.wait()
    assert job.info.restarts == 1
    assert re.search(
        r"Rank 0 on node n\d died without an error, .* The job is requeued", job.endings
    )
    assert_same_run(job, whole)


def test_a_rank_that_hangs_is_named_within_the_timeout(launch, whole):
    job = launch("hanging", flags=("--requeue-on-failure", "--timeout-s", str(TIMEOUT_SECONDS)))
    job.wait_for_step(4)
    os.kill(job.process(1), signal.SIGSTOP)
    stopped = time.monotonic()
    job.wait_for_requeue(1)
    assert time.monotonic() - stopped < TIMEOUT_SECONDS + KILL_SECONDS + SLACK_SECONDS
    job.wait()
    assert re.search(
        r"Rank 1 on node n\d hung \(.*\); its log is .*logs/rank_"
        r"00001.log. The job is requeued and resumes from the last checkpoint\.",
        job.endings,
    )
    # The other ranks logged where they were waiting.
    assert "Timeout" in job.log(0)
    assert_same_run(job, whole)


def test_a_failing_job_is_requeued_up_to_the_limit(launch):
    flags = ("--requeue-on-failure", "--max-requeues", "1")
    job = launch("failing", flags=flags, nodes=1)
    for _ in range(2):
        job.wait_for_step(1)
        os.kill(job.process(0), signal.SIGKILL)
        wait_for(lambda: job.info.state != "RUNNING", "the end of this start")
    job.wait("FAILED")
    assert job.info.restarts == 1
    assert (
        "not requeued, because it has been requeued 1 times already (--max-requeues)" in job.endings
    )


def test_a_slurmd_that_is_killed(cluster, launch, whole):
    job = launch("slurmd")
    job.wait_for_step(5)
    node = job.record(1)["node"]
    cluster.kill_node(node)
    try:
        # SLURM notices after SlurmdTimeout; meanwhile the tasks may keep running or end.
        wait_for(
            lambda: job.info.restarts == 1 or job.info.is_over, "its end", details=job.describe
        )
    finally:
        cluster.start_node(node)
    job.wait()
    assert_same_run(job, whole)


def test_a_kill_while_a_checkpoint_is_written(launch, whole):
    job = launch("writing", flags=("--requeue-on-failure",))
    job.wait_for_step(5)
    kill_in_writing(job)
    # A file with its final name is readable at any moment.
    for path in find_checkpoints(job.output_dir).values():
        read_checkpoint(path)
    assert len(find_checkpoints(job.output_dir)) >= 2
    job.wait()
    assert job.info.restarts == 1
    assert not list(job.output_dir.rglob("*.tmp"))
    assert_same_run(job, whole)


def kill_in_writing(job):
    """Kill rank 0 while a checkpoint is partly written."""
    folder, process = job.output_dir / "checkpoints", job.process(0)

    def is_writing():
        return any(path.name.endswith(".pyth.tmp") for path in folder.iterdir())

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if is_writing():
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.01)
            if is_writing():
                os.kill(process, signal.SIGKILL)
                return
            os.kill(process, signal.SIGCONT)
    raise AssertionError("no partly written checkpoint was seen")
