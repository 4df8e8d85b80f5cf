"""Test which package the programs import if there are several."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs a program with --help, and prints the path of the imported package.
PRINT_IMPORTED_PACKAGE = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
sys.path[0] = sys.argv[0].rpartition("/")[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    import stvit_video
    print("imported", stvit_video.__file__)
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Copy this checkout to another folder."""
    root = tmp_path / "checkout"
    for part in ("stvit_video", "tools", "slurm"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def imported(program: Path) -> str:
    """Return the package that a program imports if PYTHONPATH has that of this checkout."""
    ended = subprocess.run(
        [sys.executable, "-c", PRINT_IMPORTED_PACKAGE, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()[-1].removeprefix("imported ")


@pytest.mark.parametrize("program", ["tools/run_net.py", "slurm/launch.py"])
def test_a_program_imports_the_package_beside_it(checkout, program):
    assert imported(checkout / program) == str(checkout / "stvit_video" / "__init__.py")


def test_programs_without_a_package_import_the_installed_one(checkout):
    shutil.rmtree(checkout / "stvit_video")
    found = imported(checkout / "tools" / "run_net.py")
    assert found == str(ROOT / "stvit_video" / "__init__.py")
