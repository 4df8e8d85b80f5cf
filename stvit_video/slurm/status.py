"""The jobs that were launched from here: what became of each, and how far it is."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from stvit_video.slurm.scontrol import JobFacts, read_job

_MARK = "json_stats: "
# Enough for the last lines, whatever the length of the log.
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: "3/30", or "" before the first line.
        iteration: "20/3750", or "" after an epoch's end.
        loss: of the last training line; None before it.
    """

    epoch: str = ""
    iteration: str = ""
    loss: float | None = None


def read_stats(line: str) -> dict[str, Any] | None:
    """Return what a line of a log says in ``json_stats: {...}``, or None for other lines."""
    _, mark, text = line.partition(_MARK)
    if not mark:
        return None
    try:
        return json.loads(text)
    except ValueError:  # cut off in the middle
        return None


def read_progress(output_dir: Path, *, since: float) -> Progress:
    """Return how far the run in ``output_dir`` is by the end of its json_stats.log.

    Args:
        output_dir: of the run.
        since: a log that was last written before (seconds since 1970) is of an earlier run.
    """
    path = output_dir / "json_stats.log"
    if not path.is_file() or path.stat().st_mtime < since:
        return Progress()
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        stats = read_stats(line)
        if stats and stats.get("_type") in ("train_iter", "train_epoch"):
            return Progress(stats["epoch"], stats.get("iter", ""), stats["loss"])
    return Progress()


_FILE = "job.json"


@dataclass(frozen=True)
class JobRecord:
    """A job that was submitted.

    Attributes:
        job_id: SLURM's number, or with ``is_local`` the process that runs it.
        name: of the job.
        folder: of its code, config and logs, where it was found.
        output_dir: of its run.
        submitted: when, in seconds since 1970.
        is_local: it runs on the machine where it was started, without SLURM.
        first_folder: the folder as it was called when the job was submitted, which is the name
            that SLURM knows; empty: ``folder``.
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
    def how_to_stop(self) -> str:
        """The command that ends the job."""
        return f"kill {self.job_id}" if self.is_local else f"scancel {self.job_id}"

    @property
    def place_of_run(self) -> str:
        """Its OUTPUT_DIR, under one name for all ways to write it."""
        return os.path.realpath(self.output_dir)

    def has_output(self, file: str) -> bool:
        """Whether a job whose output SLURM writes to ``file`` is this one.

        The folder may have been moved since, or be named by another way that leads there.
        """
        folder = Path(file).parent
        return str(folder) == self.first_folder or folder.name == self.folder.name

    def log(self, rank: int = 0) -> Path:
        """Log of a rank: all that it prints, its errors too."""
        return self.folder / f"{self.job_id}_{rank}_log.out"

    def write(self) -> None:
        """Write it to the job's folder."""
        plain = {**asdict(self), "folder": str(self.folder), "output_dir": str(self.output_dir)}
        (self.folder / _FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")

    @property
    def result(self) -> str:
        """What submitit left at the end: "success", "error", or "" for nothing."""
        from submitit.core.utils import pickle_load

        path = self.folder / f"{self.job_id}_0_result.pkl"
        # The folder is the user's alone, so nobody else can have written the pickle.
        return pickle_load(path)[0] if path.is_file() else ""


def new_record(
    *, job_id: str, name: str, folder: Path, output_dir: str, is_local: bool
) -> JobRecord:
    """Describe a job that was submitted just now."""
    return JobRecord(
        job_id, name, folder, Path(output_dir), time.time(), is_local, first_folder=str(folder)
    )


def read_records(job_dir: Path) -> list[JobRecord]:
    """Return all jobs that were submitted with this --job-dir, the oldest first."""
    records = []
    for path in job_dir.absolute().glob(f"*/{_FILE}"):
        plain = json.loads(path.read_text(encoding="utf-8"))
        # The folder may have been moved since.
        places = {"folder": path.parent, "output_dir": Path(plain["output_dir"])}
        records.append(JobRecord(**{**plain, "first_folder": plain["folder"], **places}))
    return sorted(records, key=lambda record: record.submitted)


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
