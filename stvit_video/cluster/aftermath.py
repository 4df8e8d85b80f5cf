"""The end of a batch script: say which rank failed, and requeue the job if it is to be.

    python -m stvit_video.cluster.aftermath --job-dir DIR --max-requeues N STATUS

No rank can do this, as it may be the one that died. Nothing here imports PyTorch.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from stvit_video.cluster.rank_files import endings_log
from stvit_video.cluster.records import (
    FAILED,
    LOST,
    MISTAKE,
    STOPPED,
    RankRecord,
    read_records,
)
from stvit_video.cluster.requeue import RequeueError, is_running, requeue
from stvit_video.cluster.stop_signals import ASKING
from stvit_video.cluster.task import SlurmTask


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
    what, may_help = judge(records, status=parsed.status)
    was_asked = parsed.status - 128 in ASKING
    next_step = _next_step(
        task,
        wanted=may_help and (was_asked or parsed.requeue_on_failure),
        may_help=may_help,
        max_requeues=parsed.max_requeues,
    )
    sentence = f"{what} {next_step}"
    sys.stderr.write(sentence + "\n")
    with endings_log(parsed.job_dir).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} job {task.job_id}: {sentence}\n")


def judge(records: Sequence[RankRecord], *, status: int) -> tuple[str, bool]:
    """Tell the cause of an ending from its consequences.

    A rank that raised an error is the cause, before one that left without a word, as others are
    killed for it; both are before those that lost contact with it.

    Args:
        records: of the ranks, those with the oldest sign of life first.
        status: srun's exit status.

    Returns:
        A sentence about it, and whether starting again may help.
    """
    for ending in (MISTAKE, FAILED, "", LOST):
        for record in records:
            if record.ending == ending:
                return _describe(record, records), ending != MISTAKE
    if status - 128 in ASKING:
        return f"{signal.Signals(status - 128).name} came before the ranks had begun.", True
    return f"The ranks ended with status {status} before they had begun.", True


def _describe(record: RankRecord, records: Sequence[RankRecord]) -> str:
    rank = f"Rank {record.rank} on node {record.node}"
    log = f"its log is {record.log}."
    if record.ending == MISTAKE:
        return f"{rank} stopped; {log} {record.reason}"
    if record.ending == FAILED:
        return f"{rank} failed ({record.reason}); {log}"
    lost = [other.reason for other in records if other.ending == LOST]
    if record.ending == LOST:
        return f"{rank} lost contact with the others ({record.reason}); {log}"
    if any("imed out" in reason or "imeout" in reason for reason in lost):
        return f"{rank} hung, and the others waited for it in vain; {log}"
    return f"{rank} died without a word, as a process does that is killed (often for memory); {log}"


def _next_step(task: SlurmTask, *, wanted: bool, may_help: bool, max_requeues: int) -> str:
    """Requeue the job if that is wanted and allowed; returns a sentence about it."""
    if not may_help:
        return "The job is not requeued, as it would end the same way again."
    if not wanted:
        return (
            "The job is not requeued, as --requeue-on-failure is not set; submit it again to go on "
            "from the last checkpoint."
        )
    if task.restarts >= max_requeues:
        return (
            f"The job is not requeued, as it has been {task.restarts} times already "
            "(--max-requeues); submit it again to go on from the last checkpoint."
        )
    try:
        requeue(task)
    except RequeueError as error:
        return f"It is not requeued: {error}; submit it again to go on from the last checkpoint."
    return "The job is requeued, and goes on from the last checkpoint."


if __name__ == "__main__":
    main(sys.argv[1:])
