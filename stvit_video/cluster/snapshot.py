"""The code that a job runs: a copy of its own, and which version that is."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import stvit_video

# Of the folder that holds the package, whichever of these there are: installed without a
# checkout, the package stands alone among others'.
_PARTS = ("stvit_video", "configs", "tools", "slurm", "setup.py", "constraints.txt")


def copy_code(folder: Path) -> None:
    """Copy the package, the configs and the programs to a new folder.

    A job imports from there, so it runs what it was submitted with, in every requeue too,
    whatever becomes of the working tree meanwhile.
    """
    root = _root()
    folder.mkdir()
    for part in _PARTS if _is_checkout(root) else _PARTS[:1]:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, folder / part)


def write_versions(folder: Path) -> None:
    """Write which code and which packages a job runs with.

    code_version.txt has git's commit and status, code.diff what differs from that commit (files
    that git does not know are in the copy alone), and environment.txt all installed packages.
    """
    root = _root()
    commit = _git(root, "rev-parse", "HEAD") if _is_checkout(root) else b""
    if commit:
        version = b"commit " + commit + (_git(root, "status", "--short") or b"clean") + b"\n"
        (folder / "code.diff").write_bytes(_git(root, "diff", "HEAD"))
    else:
        version = os.fsencode(f"no git; installed in {root}\n")
    (folder / "code_version.txt").write_bytes(version)
    (folder / "environment.txt").write_text(_environment(), encoding="utf-8")


def _root() -> Path:
    return Path(stvit_video.__file__).resolve().parents[1]


def _is_checkout(root: Path) -> bool:
    return (root / "setup.py").is_file() and (root / "configs").is_dir()


def _git(root: Path, *arguments: str) -> bytes:
    """Return what git says: files that differ may be in any encoding."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def _environment() -> str:
    packages = {
        f"{one.metadata['Name']}=={one.version}" for one in distributions() if one.metadata["Name"]
    }
    head = f"# Python {platform.python_version()} at {sys.executable}, {platform.platform()}"
    return "\n".join([head, *sorted(packages, key=str.lower)]) + "\n"
