"""Ranks and nodes that die or hang: the job ends with a sentence, or goes on, and loses nothing."""

import os
import re
import signal
import time

from cluster import wait_for
from jobs import assert_same_run

from stvit_video.engine.checkpoint import find_checkpoints, read_checkpoint

# KillWait of the fixture's SLURM, and for the ranks to be seen dead and the sentence written.
KILL_SECONDS, SLACK_SECONDS = 10, 20
# --timeout-s of the job that hangs.
TIMEOUT_SECONDS = 20


def test_a_killed_rank_ends_the_job_with_a_sentence(launch):
    job = launch("killed")
    job.wait_for_step(4)
    os.kill(job.process(1), signal.SIGKILL)
    killed = time.monotonic()
    job.wait("FAILED")
    assert time.monotonic() - killed < KILL_SECONDS + SLACK_SECONDS
    log = re.escape(str(job.folder / "logs" / "rank_00001.log"))
    assert re.search(
        rf": Rank 1 on node n\d died without a word, as .*; its log is {log}\. The job is not "
        r"requeued, as --requeue-on-failure is not set; submit it again to go on",
        job.endings,
    )
    assert job.endings.count("\n") == 1
    assert job.endings.partition(": ")[2].strip() in job.output
    assert job.facts.restarts == 0


def test_rank_0_may_be_the_one_that_dies(launch, whole):
    job = launch("killed 0", flags=("--requeue-on-failure",))
    job.wait_for_step(4)
    os.kill(job.process(0), signal.SIGKILL)
    job.wait()
    assert job.facts.restarts == 1
    assert re.search(r"Rank 0 on node n\d died without a word, .* The job is requeued", job.endings)
    assert_same_run(job, whole)


def test_a_rank_that_hangs_is_named_within_the_time_out(launch, whole):
    job = launch("hanging", flags=("--requeue-on-failure", "--timeout-s", str(TIMEOUT_SECONDS)))
    job.wait_for_step(4)
    os.kill(job.process(1), signal.SIGSTOP)
    stopped = time.monotonic()
    job.wait_for_requeue(1)
    assert time.monotonic() - stopped < TIMEOUT_SECONDS + KILL_SECONDS + SLACK_SECONDS
    job.wait()
    assert re.search(
        r"Rank 1 on node n\d hung \(.*\); its log is .*logs/rank_"
        r"00001.log. The job is requeued, and goes on from the last checkpoint\.",
        job.endings,
    )
    # Where the others were waiting.
    assert "Timeout" in job.log(0)
    assert_same_run(job, whole)


def test_a_failing_job_is_requeued_a_bounded_number_of_times(launch):
    flags = ("--requeue-on-failure", "--max-requeues", "1")
    job = launch("failing", flags=flags, nodes=1)
    for _ in range(2):
        job.wait_for_step(1)
        os.kill(job.process(0), signal.SIGKILL)
        wait_for(lambda: job.facts.state != "RUNNING", "the end of this start")
    job.wait("FAILED")
    assert job.facts.restarts == 1
    assert "not requeued, as it has been 1 times already (--max-requeues)" in job.endings


def test_a_slurmd_that_is_killed(cluster, launch, whole):
    job = launch("slurmd")
    job.wait_for_step(5)
    node = job.record(1)["node"]
    cluster.kill_node(node)
    try:
        # SLURM misses it after SlurmdTimeout; the tasks go on meanwhile, or end.
        wait_for(lambda: job.facts.restarts == 1 or job.facts.is_over, "its end", told=job.told)
    finally:
        cluster.start_node(node)
    job.wait()
    assert_same_run(job, whole)


def test_a_kill_while_a_checkpoint_is_written(launch, whole):
    job = launch("writing", flags=("--requeue-on-failure",))
    job.wait_for_step(5)
    kill_in_writing(job)
    # Nothing that has its final name is unreadable at any moment.
    for path in find_checkpoints(job.output_dir).values():
        read_checkpoint(path)
    assert len(find_checkpoints(job.output_dir)) >= 2
    job.wait()
    assert job.facts.restarts == 1
    assert not list(job.output_dir.rglob("*.tmp"))
    assert_same_run(job, whole)


def kill_in_writing(job):
    """Kill rank 0 at a moment when a checkpoint is half written."""
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
    raise AssertionError("no checkpoint was seen half written")
