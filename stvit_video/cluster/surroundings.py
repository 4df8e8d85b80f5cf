"""The environment in which jobs are submitted and, without SLURM, started."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Kept although they are SLURM's: where its config is, and a token for it.
_KEPT = ("SLURM_CONF", "SLURM_JWT")
_OF_JOBS = ("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_", "TORCHELASTIC_")
# torchrun's, and of those who do its work by hand: ranks would take them for their own place.
_OF_RANKS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide what a job or a rank around this program says of itself, and what would beat flags."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(_OF_JOBS) or name in _OF_RANKS) and name not in _KEPT
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def in_background(folder: Path) -> Iterator[None]:
    """Start processes that import a job's copy of the code, and live on after this program.

    They ignore Ctrl-C, and hold neither its terminal nor a pipe behind it.
    """
    code = folder / "code"
    before, path = Path.cwd(), os.environ.get("PYTHONPATH")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    streams = {number: os.dup(number) for number in (1, 2)}
    os.chdir(code)
    os.environ["PYTHONPATH"] = f"{code}{os.pathsep}{path}" if path else str(code)
    try:
        with (folder / "controller.log").open("ab") as log:
            for number in streams:
                os.dup2(log.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(before)
        signal.signal(signal.SIGINT, handler)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
