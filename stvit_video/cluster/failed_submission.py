"""A submission that went wrong: SLURM may have queued the job all the same."""

import re
import shlex
import time
from pathlib import Path

from stvit_video.cluster.slurm import cancel, jobs_from
from stvit_video.errors import UserError

# What sbatch says when its question may have reached SLURM, and only the answer is missing.
_IN_DOUBT = re.compile("timed out|zero bytes|unexpected message|reset by peer", re.IGNORECASE)
# A busy controller may queue a job after sbatch has given it up.
_PAUSES = (0.0, 2.0, 5.0)
_MARK = "sbatch: error: "


def describe_failure(error: Exception, *, name: str, folder: Path) -> str:
    """Say what became of a job that sbatch did not submit as usual; if it is queued, cancel it.

    Args:
        error: what submitit raised.
        name: of the job.
        folder: of the job.
    """
    words = _words(error)
    in_doubt = _IN_DOUBT.search(words)
    cancelled, left = cancel_queued(folder, patiently=bool(in_doubt))
    if cancelled or left:
        queued = ", ".join(cancelled + left)
        end = f"end it with `scancel {' '.join(left)}` and" if left else "it is cancelled, so"
        return (
            f"sbatch failed ({words}), but SLURM had queued the job {name} as {queued}: {end} "
            "launch it again"
        )
    if in_doubt:
        return (
            f"sbatch does not know whether SLURM has queued the job {name} ({words}), and it is "
            f"not in the queue yet: see `squeue --me --name {shlex.quote(name)}` in a few minutes, "
            "end it with scancel, as it could only fail without its folder, and launch it again"
        )
    return f"SLURM refuses the job {name}: {words}"


def cancel_queued(folder: Path, *, patiently: bool = False) -> tuple[list[str], list[str]]:
    """Cancel what is in the queue of the job in ``folder``.

    Returns:
        numbers of those that are cancelled, and of those that could not be.
    """
    for pause in _PAUSES if patiently else _PAUSES[:1]:
        time.sleep(pause)
        try:
            queued = jobs_from(folder)
        except UserError:
            continue
        if queued:
            left = [job_id for job_id in queued if not _is_cancelled(job_id)]
            return [job_id for job_id in queued if job_id not in left], left
    return [], []


def _is_cancelled(job_id: str) -> bool:
    try:
        cancel(job_id)
    except UserError:
        return False
    return True


def _words(error: Exception) -> str:
    """Return what sbatch says, in one line."""
    lines = [line for line in str(error).splitlines() if line.startswith(_MARK)]
    said = "; ".join(line.removeprefix(_MARK) for line in lines)
    return said or " ".join(str(error).split())
