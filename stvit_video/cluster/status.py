"""The jobs that were launched from here: what became of each, and how far it is."""

from collections.abc import Sequence

import psutil

from stvit_video.cluster.job_record import JobRecord
from stvit_video.cluster.progress_log import Progress, read_progress
from stvit_video.cluster.slurm import JobFacts, read_job

_COLUMNS = ("job", "name", "state", "epoch", "step", "loss", "requeues", "logs")
# A record is written after its process was started, by clocks that differ a little.
_START_SECONDS = 1.0


def job_facts(record: JobRecord) -> JobFacts:
    """Say what a job does, by SLURM or, once that has forgotten it, by what it left behind.

    Raises:
        UserError: SLURM does not answer.
    """
    facts = _local_facts(record) if record.is_local else read_job(record.job_id)
    if facts is not None and (record.is_local or record.has_output(facts.output)):
        return facts
    # Without accounting SLURM knows a job for some minutes (MinJobAge) after its end.
    states = {"success": "COMPLETED", "error": "FAILED"}
    return JobFacts(states.get(record.result, "ENDED"), "None", restarts=None, output="")


def status_table(records: Sequence[JobRecord]) -> str:
    """Return a table of jobs: state, epoch, last loss, requeues, where the logs are.

    Raises:
        UserError: SLURM does not answer.
    """
    # Of several jobs that trained in one folder, what it says is of the last.
    last = {record.place_of_run: record for record in records}
    rows = [
        _COLUMNS,
        *(_row(record, is_last=last[record.place_of_run] is record) for record in records),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(record: JobRecord, *, is_last: bool) -> tuple[str, ...]:
    facts = job_facts(record)
    progress = Progress()
    if is_last:
        progress = read_progress(record.output_dir, since=record.submitted)
    reason = f" ({facts.reason})" if facts.reason != "None" else ""
    return (
        f"local {record.job_id}" if record.is_local else record.job_id,
        record.name,
        facts.state + reason,
        progress.epoch or "-",
        progress.iteration or "-",
        "-" if progress.loss is None else f"{progress.loss:.4g}",
        "-" if facts.restarts is None else str(facts.restarts),
        str(record.folder),
    )


def _local_facts(record: JobRecord) -> JobFacts | None:
    try:
        process = psutil.Process(int(record.job_id))
        runs = process.status() != psutil.STATUS_ZOMBIE
        # Numbers of processes are given out again.
        is_it = process.create_time() < record.submitted + _START_SECONDS
    except psutil.NoSuchProcess:
        return None
    return JobFacts("RUNNING", "None", restarts=0, output="") if runs and is_it else None
