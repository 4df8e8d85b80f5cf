"""Requeue a job; as a program, end its batch script: report a failure and requeue the job.

    python -m stvit_video.slurm.requeue --job-dir DIR --max-requeues N STATUS

A rank cannot do this, because it may be the one that died. Nothing here imports PyTorch.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from stvit_video.errors import UserError
from stvit_video.slurm.scontrol import read_job, requeue_job
from stvit_video.slurm.task import (
    FAILED,
    HUNG,
    LOST,
    MISTAKE,
    STOP_SIGNALS,
    STOPPED,
    RankRecord,
    SlurmTask,
    endings_log,
    read_rank_records,
)

# A controller that is busy or restarting responds after a while.
_RETRY_DELAYS = (1.0, 4.0, 10.0)  # seconds
_REQUEUED = "The job is requeued and resumes from the last checkpoint."
_SUBMIT_AGAIN = "submit it again to resume from the last checkpoint."


class RequeueError(RuntimeError):
    """SLURM does not respond, or refuses to requeue the job."""


def main(arguments: Sequence[str]) -> None:
    """Report how srun ended, by its exit status and the ranks' records, and requeue the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job-dir", type=Path, required=True)
    parser.add_argument("--max-requeues", type=int, required=True)
    parser.add_argument("--requeue-on-failure", action="store_true")
    parser.add_argument("status", type=int)
    parsed = parser.parse_args(arguments)
    task = SlurmTask.from_env(os.environ)
    assert task is not None, "this program runs only in a job's batch script"
    if parsed.status == 0 or not is_running(task):
        return  # the job is done, or SLURM itself ends or requeues it
    records = read_rank_records(parsed.job_dir, restarts=task.restarts)
    if records and all(record.ending == STOPPED for record in records):
        return  # rank 0 has reported the stop
    num_ranks = int(os.environ["SLURM_NTASKS"])
    cause, may_recover = find_cause(records, status=parsed.status, num_ranks=num_ranks)
    was_signaled = _was_signaled(records, status=parsed.status, num_ranks=num_ranks)
    refusal = _find_refusal(
        task,
        is_enabled=was_signaled or parsed.requeue_on_failure,
        may_recover=may_recover,
        max_requeues=parsed.max_requeues,
    )
    _report(parsed.job_dir, task, f"{cause} {refusal or _REQUEUED}")
    if refusal:
        return
    try:
        requeue(task)  # also ends this process, sooner or later
    except RequeueError as error:
        _report(parsed.job_dir, task, f"The requeue failed: {error}; {_SUBMIT_AGAIN}")


def find_cause(records: Sequence[RankRecord], *, status: int, num_ranks: int) -> tuple[str, bool]:
    """Find the rank that caused a failure, among those that only failed as a consequence.

    A rank that raised an error comes before one that died without an error, because others are
    killed after the first failure. Both come before ranks that lost contact with it.

    Args:
        records: the ranks' records, the oldest heartbeat first.
        status: srun's exit status.
        num_ranks: number of ranks of the job.

    Returns:
        A sentence about the cause, and whether starting again may help.
    """
    if not records:
        return _describe_failed_start(status), True
    missing = sorted(set(range(num_ranks)) - {record.rank for record in records})
    for ending in (MISTAKE, FAILED, HUNG, "", LOST):
        if ending == "" and missing:
            ranks = ", ".join(map(str, missing))
            return f"Of {num_ranks} ranks, some ended before they had started: {ranks}.", True
        for record in records:
            if record.ending == ending:
                return _describe_failed_rank(record, records), ending != MISTAKE
    return f"All ranks finished, and then exited with status {status}.", True


def _describe_failed_start(status: int) -> str:
    if status - 128 in STOP_SIGNALS:
        return f"{signal.Signals(status - 128).name} arrived before the ranks had started."
    return f"The ranks exited with status {status} before they had started."


def _describe_failed_rank(record: RankRecord, records: Sequence[RankRecord]) -> str:
    rank = f"Rank {record.rank} on node {record.node}"
    log = f"its log is {record.log}."
    if record.ending == MISTAKE:
        return f"{rank} stopped; {log} {record.reason}"
    if record.ending == FAILED:
        return f"{rank} failed ({record.reason}); {log}"
    if record.ending == HUNG:
        return f"{rank} hung ({record.reason}); {log}"
    if record.ending == LOST:
        return f"{rank} lost contact with the others ({record.reason}); {log}"
    reasons = [other.reason for other in records if other.ending == LOST]
    if any("imed out" in reason or "imeout" in reason for reason in reasons):
        return f"{rank} hung (the others timed out waiting for it); {log}"
    return f"{rank} died without an error, so it was probably killed (often for memory); {log}"


def _was_signaled(records: Sequence[RankRecord], *, status: int, num_ranks: int) -> bool:
    """Whether a stop signal ended ranks that had not installed their handlers yet.

    TERM is ambiguous: a preemption begins with it, but srun also sends it to the other ranks when
    one has failed.
    """
    if status - 128 != signal.SIGTERM:
        return status - 128 in STOP_SIGNALS
    has_failure = any(record.ending in (MISTAKE, FAILED, HUNG) for record in records)
    return len(records) < num_ranks and not has_failure


def _find_refusal(
    task: SlurmTask, *, is_enabled: bool, may_recover: bool, max_requeues: int
) -> str:
    """Return why the job is not requeued, or an empty string if it is."""
    if not may_recover:
        return "The job is not requeued, because it would fail the same way again."
    if not is_enabled:
        return f"The job is not requeued, because --requeue-on-failure is not set; {_SUBMIT_AGAIN}"
    if task.restarts >= max_requeues:
        return describe_requeue_limit(task)
    return ""


def describe_requeue_limit(task: SlurmTask) -> str:
    """Return the message about a job that has reached --max-requeues."""
    return (
        f"The job is not requeued, because it has been requeued {task.restarts} times already "
        f"(--max-requeues); {_SUBMIT_AGAIN}"
    )


def _report(job_dir: Path, task: SlurmTask, message: str) -> None:
    sys.stderr.write(message + "\n")
    with endings_log(job_dir).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} job {task.job_id}: {message}\n")


def requeue(task: SlurmTask) -> bool:
    """Requeue the job of ``task``, unless SLURM has requeued it or is ending it.

    SLURM requeues a job itself after ``scontrol requeue``, a preemption without grace time or a
    node failure. After ``scancel`` the job must not come back.

    Returns:
        Whether it was requeued here.

    Raises:
        RequeueError: SLURM refuses, or does not respond.
    """

    def requeue_if_running() -> bool:
        if not _is_running(task):
            return False
        requeue_job(task.job_id)
        return True

    # A requeue ends all processes of the job, including scontrol, which must live to report
    # whether it was accepted. scontrol inherits the blocked signal.
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        return _retry(requeue_if_running)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def is_running(task: SlurmTask) -> bool:
    """Whether the job is running and has not been requeued since ``task`` started.

    Raises:
        RequeueError: SLURM does not respond.
    """
    return _retry(lambda: _is_running(task))


def _is_running(task: SlurmTask) -> bool:
    info = read_job(task.job_id)
    return info is not None and info.state == "RUNNING" and info.restarts == task.restarts


def _retry(query: Callable[[], bool]) -> bool:
    for delay in _RETRY_DELAYS:
        try:
            return query()
        except UserError:
            time.sleep(delay)
    try:
        return query()
    except UserError as error:
        raise RequeueError(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1:])
