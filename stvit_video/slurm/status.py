"""Record submitted jobs, and report their state and progress."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from stvit_video.slurm.scontrol import JobInfo, read_job

_RECORD_FILE = "job.json"
_COLUMNS = ("job", "name", "state", "epoch", "step", "loss", "requeues", "logs")
_STATS_MARK = "json_stats: "
# Enough for the last lines of a log of any length.
_TAIL_BYTES = 1 << 16
# A record is written after its process starts, and the two clocks differ a little.
_CLOCK_TOLERANCE_SECONDS = 1.0


@dataclass(frozen=True)
class JobRecord:
    """A job that was submitted.

    Attributes:
        job_id: SLURM's id, or with ``is_local`` the id of the process that runs it.
        name: name of the job.
        folder: folder of its code, config and logs, where it is now.
        output_dir: folder of its run.
        submitted: time of submission, in seconds since 1970.
        is_local: it runs on the machine where it was started, without SLURM.
        first_folder: the folder when the job was submitted, as SLURM knows it; empty: ``folder``.
    """

    job_id: str
    name: str
    folder: Path
    output_dir: Path
    submitted: float
    is_local: bool = False
    first_folder: str = ""

    @property
    def title(self) -> str:
        """The job in words."""
        return f"{'local job' if self.is_local else 'job'} {self.job_id} ({self.name})"

    @property
    def stop_command(self) -> str:
        """The command that stops the job."""
        return f"kill {self.job_id}" if self.is_local else f"scancel {self.job_id}"

    @property
    def real_output_dir(self) -> str:
        """Its OUTPUT_DIR without symbolic links, the same however it was written."""
        return os.path.realpath(self.output_dir)

    @property
    def result(self) -> str:
        """The result that submitit left at the end: "success", "error", or "" if there is none."""
        from submitit.core.utils import pickle_load

        path = self.folder / f"{self.job_id}_0_result.pkl"
        # Only the user can write to the folder, so the pickle is safe to load.
        return pickle_load(path)[0] if path.is_file() else ""

    def log(self, rank: int = 0) -> Path:
        """Return the file of a rank's standard output and error."""
        return self.folder / f"{self.job_id}_{rank}_log.out"

    def has_output(self, file: str) -> bool:
        """Whether ``file``, the output file of a job in SLURM, belongs to this job.

        The folder may have been moved since submission, or be reached by another path.
        """
        folder = Path(file).parent
        return str(folder) == self.first_folder or folder.name == self.folder.name

    def write(self) -> None:
        """Write the record to the job's folder."""
        values = {**asdict(self), "folder": str(self.folder), "output_dir": str(self.output_dir)}
        text = json.dumps(values, indent=2) + "\n"
        (self.folder / _RECORD_FILE).write_text(text, encoding="utf-8")


def new_record(
    *, job_id: str, name: str, folder: Path, output_dir: str, is_local: bool
) -> JobRecord:
    """Return the record of a job that was submitted just now."""
    return JobRecord(
        job_id, name, folder, Path(output_dir), time.time(), is_local, first_folder=str(folder)
    )


def read_job_records(job_dir: Path) -> list[JobRecord]:
    """Return all jobs that were submitted with this --job-dir, the oldest first."""
    records = []
    for path in job_dir.absolute().glob(f"*/{_RECORD_FILE}"):
        values = json.loads(path.read_text(encoding="utf-8"))
        values["first_folder"] = values["folder"]
        # The folder may have been moved.
        values["folder"] = path.parent
        values["output_dir"] = Path(values["output_dir"])
        records.append(JobRecord(**values))
    return sorted(records, key=lambda record: record.submitted)


def job_info(record: JobRecord) -> JobInfo:
    """Return the state of a job from SLURM or, once SLURM has forgotten it, from its result.

    Raises:
        UserError: SLURM does not respond.
    """
    info = _local_job_info(record) if record.is_local else read_job(record.job_id)
    if info is not None and (record.is_local or record.has_output(info.output)):
        return info
    # Without accounting SLURM remembers a job only for some minutes (MinJobAge) after its end.
    states = {"success": "COMPLETED", "error": "FAILED"}
    return JobInfo(states.get(record.result, "ENDED"), "None", restarts=None, output="")


def _local_job_info(record: JobRecord) -> JobInfo | None:
    try:
        process = psutil.Process(int(record.job_id))
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        # Process ids are reused.
        is_same = process.create_time() < record.submitted + _CLOCK_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return None
    if not (is_alive and is_same):
        return None
    return JobInfo("RUNNING", "None", restarts=0, output="")


def status_table(records: Sequence[JobRecord]) -> str:
    """Return a table of jobs with their state, progress, requeues and logs.

    Raises:
        UserError: SLURM does not respond.
    """
    # If several jobs trained in one folder, its log shows the progress of the last one.
    last = {record.real_output_dir: record for record in records}
    rows = [
        _COLUMNS,
        *(_table_row(record, is_last=last[record.real_output_dir] is record) for record in records),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _table_row(record: JobRecord, *, is_last: bool) -> tuple[str, ...]:
    info = job_info(record)
    progress = Progress()
    if is_last:
        progress = read_progress(record.output_dir, since=record.submitted)
    return (
        f"local {record.job_id}" if record.is_local else record.job_id,
        record.name,
        info.describe(),
        progress.epoch or "-",
        progress.iteration or "-",
        "-" if progress.loss is None else f"{progress.loss:.4g}",
        "-" if info.restarts is None else str(info.restarts),
        str(record.folder),
    )


@dataclass(frozen=True)
class Progress:
    """The progress of a training run.

    Attributes:
        epoch: "3/30", or "" before the first log line.
        iteration: "20/3750", or "" at the end of an epoch.
        loss: loss of the last training line; None before it.
    """

    epoch: str = ""
    iteration: str = ""
    loss: float | None = None


def read_progress(output_dir: Path, *, since: float) -> Progress:
    """Read the progress of the run in ``output_dir`` from the end of its json_stats.log.

    Args:
        output_dir: folder of the run.
        since: ignore a log that was last written before (seconds since 1970), by an earlier run.
    """
    path = output_dir / "json_stats.log"
    if not path.is_file() or path.stat().st_mtime < since:
        return Progress()
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        stats = parse_stats(line)
        if stats and stats.get("_type") in ("train_iter", "train_epoch"):
            return Progress(stats["epoch"], stats.get("iter", ""), stats["loss"])
    return Progress()


def parse_stats(line: str) -> dict[str, Any] | None:
    """Return the statistics in a log line ``json_stats: {...}``, or None for other lines."""
    _, mark, text = line.partition(_STATS_MARK)
    if not mark:
        return None
    try:
        return json.loads(text)
    except ValueError:  # the line is truncated
        return None
