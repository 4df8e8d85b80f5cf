"""Requeue a job; as a program, end its batch script: say which rank failed, and requeue the job.

    python -m stvit_video.slurm.requeue --job-dir DIR --max-requeues N STATUS

No rank can do this, as it may be the one that died. Nothing here imports PyTorch.
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
    read_records,
)

# A controller that is busy or restarting answers after a while.
_PAUSES = (1.0, 4.0, 10.0)


class RequeueError(RuntimeError):
    """SLURM could not be asked, or did not take the job back into its queue."""


def requeue(task: SlurmTask) -> bool:
    """Requeue the job of ``task``, unless SLURM has done that or is ending the job.

    After ``scontrol requeue``, a preemption without grace time or a failed node SLURM has requeued
    it already, and after ``scancel`` it must not come back.

    Returns:
        Whether it was requeued here.

    Raises:
        RequeueError: SLURM refuses, or does not answer.
    """

    def requeue_if_running() -> bool:
        if not _is_running(task):
            return False
        requeue_job(task.job_id)
        return True

    # What it asks SLURM for ends all processes of the job, scontrol among them, which must be able
    # to say whether that was granted; it inherits what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        return _patiently(requeue_if_running)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_running(task: SlurmTask) -> bool:
    """Whether the job runs, and has not been requeued since ``task`` began.

    Raises:
        RequeueError: SLURM does not answer.
    """
    return _patiently(lambda: _is_running(task))


def _patiently(ask: Callable[[], bool]) -> bool:
    for pause in _PAUSES:
        try:
            return ask()
        except UserError:
            time.sleep(pause)
    try:
        return ask()
    except UserError as error:
        raise RequeueError(str(error)) from error


def _is_running(task: SlurmTask) -> bool:
    facts = read_job(task.job_id)
    return facts is not None and facts.state == "RUNNING" and facts.restarts == task.restarts


_GOES_ON = "The job is requeued, and goes on from the last checkpoint."
_SUBMIT_AGAIN = "submit it again to go on from the last checkpoint."


def main(arguments: Sequence[str]) -> None:
    """Judge how srun ended, by its exit status and the ranks' records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job-dir", type=Path, required=True)
    parser.add_argument("--max-requeues", type=int, required=True)
    parser.add_argument("--requeue-on-failure", action="store_true")
    parser.add_argument("status", type=int)
    parsed = parser.parse_args(arguments)
    task = SlurmTask.of(os.environ)
    assert task is not None, "it belongs into a job's batch script"
    if parsed.status == 0 or not is_running(task):
        return  # done, or SLURM itself ends or requeues the job
    records = read_records(parsed.job_dir, restarts=task.restarts)
    if records and all(record.ending == STOPPED for record in records):
        return  # rank 0 has said what there is to say
    num_ranks = int(os.environ["SLURM_NTASKS"])
    what, may_help = find_cause(records, status=parsed.status, num_ranks=num_ranks)
    was_asked = _was_asked(records, status=parsed.status, num_ranks=num_ranks)
    refusal = _refusal(
        task,
        wanted=was_asked or parsed.requeue_on_failure,
        may_help=may_help,
        max_requeues=parsed.max_requeues,
    )
    _say(parsed.job_dir, task, f"{what} {refusal or _GOES_ON}")
    if refusal:
        return
    try:
        requeue(task)  # which ends this process, sooner or later
    except RequeueError as error:
        _say(parsed.job_dir, task, f"It is not requeued after all: {error}; {_SUBMIT_AGAIN}")


def find_cause(records: Sequence[RankRecord], *, status: int, num_ranks: int) -> tuple[str, bool]:
    """Tell the cause of an ending from its consequences.

    A rank that raised an error is the cause, before one that left without a word, as others are
    killed for it; all are before those that lost contact with it.

    Args:
        records: of the ranks, those with the oldest sign of life first.
        status: srun's exit status.
        num_ranks: that there should be.

    Returns:
        A sentence about it, and whether starting again may help.
    """
    if not records:
        return _describe_start(status), True
    missing = sorted(set(range(num_ranks)) - {record.rank for record in records})
    for ending in (MISTAKE, FAILED, HUNG, "", LOST):
        if ending == "" and missing:
            ranks = ", ".join(map(str, missing))
            return f"Of {num_ranks} ranks some ended before they had begun: {ranks}.", True
        for record in records:
            if record.ending == ending:
                return _describe(record, records), ending != MISTAKE
    return f"All ranks came to their end, and then ended with status {status}.", True


def _was_asked(records: Sequence[RankRecord], *, status: int, num_ranks: int) -> bool:
    """Whether ranks that could not note it yet died of a signal that asks the job to stop.

    TERM is what srun ends the other ranks by, too, when one has failed; and it is what a preemption
    begins with.
    """
    if status - 128 != signal.SIGTERM:
        return status - 128 in STOP_SIGNALS
    have_failed = any(record.ending in (MISTAKE, FAILED, HUNG) for record in records)
    return len(records) < num_ranks and not have_failed


def _describe_start(status: int) -> str:
    if status - 128 in STOP_SIGNALS:
        return f"{signal.Signals(status - 128).name} came before the ranks had begun."
    return f"The ranks ended with status {status} before they had begun."


def _describe(record: RankRecord, records: Sequence[RankRecord]) -> str:
    rank = f"Rank {record.rank} on node {record.node}"
    log = f"its log is {record.log}."
    if record.ending == MISTAKE:
        return f"{rank} stopped; {log} {record.reason}"
    if record.ending == FAILED:
        return f"{rank} failed ({record.reason}); {log}"
    if record.ending == HUNG:
        return f"{rank} hung ({record.reason}); {log}"
    lost = [other.reason for other in records if other.ending == LOST]
    if record.ending == LOST:
        return f"{rank} lost contact with the others ({record.reason}); {log}"
    if any("imed out" in reason or "imeout" in reason for reason in lost):
        return f"{rank} hung (the others waited for it in vain); {log}"
    return f"{rank} died without a word, as a process does that is killed (often for memory); {log}"


def _refusal(task: SlurmTask, *, wanted: bool, may_help: bool, max_requeues: int) -> str:
    """Return why the job is not to be requeued, or nothing if it is."""
    if not may_help:
        return "The job is not requeued, as it would end the same way again."
    if not wanted:
        return f"The job is not requeued, as --requeue-on-failure is not set; {_SUBMIT_AGAIN}"
    if task.restarts >= max_requeues:
        return (
            f"The job is not requeued, as it has been {task.restarts} times already "
            f"(--max-requeues); {_SUBMIT_AGAIN}"
        )
    return ""


def _say(job_dir: Path, task: SlurmTask, sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    with endings_log(job_dir).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} job {task.job_id}: {sentence}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
