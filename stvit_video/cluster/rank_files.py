"""Where the files of a job are, in its folder."""

from pathlib import Path


def rank_log(job_dir: Path, rank: int) -> Path:
    """Return the log of one rank; a job that is requeued appends to it."""
    return job_dir / "logs" / f"rank_{rank:05d}.log"


def rank_record(job_dir: Path, rank: int) -> Path:
    """Return the file of what is known about one rank: see :mod:`stvit_video.cluster.records`."""
    return job_dir / "ranks" / f"rank_{rank:05d}.json"


def endings_log(job_dir: Path) -> Path:
    """Return the list of how the job ended each time, a line with the time and a sentence each."""
    return job_dir / "endings.log"
