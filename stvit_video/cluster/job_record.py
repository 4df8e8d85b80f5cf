"""What is kept of a submitted job in its folder, for those who ask for it later."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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
