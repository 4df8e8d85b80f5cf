"""Programs and jobs of a checkout whose package is not installed, next to another checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stvit_video.slurm.status import read_job_records

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("stvit_video", "configs", "tools", "slurm", "setup.py")
# A sitecustomize.py, which Python runs after the .pth files of installed packages.
UNINSTALL = """
import os, sys
from pathlib import Path
wanted = os.environ["PYTHONPATH"].split(os.pathsep)
sys.path[:] = [
    folder for folder in sys.path if folder in wanted or not Path(folder, "stvit_video").is_dir()
]
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
"""
PRINT_FILE = "\nprint(f'imported {__file__}', flush=True)\n"


@pytest.fixture
def checkouts(tmp_path) -> list[Path]:
    """Two checkouts whose package prints its file when it is imported."""
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        for part in PARTS:
            if (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, root / part, ignore=ignored)
            else:
                shutil.copy2(ROOT / part, root / part)
        for module in ("__init__.py", "slurm/rank.py"):
            with (root / "stvit_video" / module).open("a") as file:
                file.write(PRINT_FILE)
    return roots


@pytest.fixture
def python(tmp_path):
    """Return a function that runs Python without the installed package, and returns its output."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(UNINSTALL)
    # The processes of a job share the compiled files of its copy of the code.
    faster = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    env = {**os.environ, "PYTHONPATH": str(site), **faster}

    def run(*arguments, cwd, status=0) -> str:
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def imported_files(output: str) -> set[str]:
    return set(re.findall(r"imported (\S+)", output))


def test_the_package_is_not_installed_in_these_tests(python, tmp_path):
    output = python("-c", "import stvit_video", cwd=tmp_path, status=1)
    assert "No module named 'stvit_video'" in output


@pytest.mark.parametrize("program", ["tools/run_net.py", "slurm/launch.py"])
def test_a_program_imports_the_package_of_its_own_checkout(python, checkouts, program):
    for root, other in (checkouts, checkouts[::-1]):
        output = python(root / program, "--help", cwd=other)
        assert imported_files(output) == {str(root / "stvit_video" / "__init__.py")}


def test_the_ranks_of_a_job_import_its_copy_of_the_code(python, checkouts, config_file, tmp_path):
    root, _ = checkouts
    output = python(
        root / "slurm" / "launch.py",
        *("--local", "--follow", "--cfg", config_file, "--job-dir", "jobs"),
        *("NUM_GPUS", "2", "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"),
        cwd=tmp_path,
    )
    (record,) = read_job_records(tmp_path / "jobs")
    # The checkout's package is that of launch.py, which never imports the ranks' module.
    package, copy = root / "stvit_video", record.folder / "code" / "stvit_video"
    assert imported_files(output) == {
        str(package / "__init__.py"),
        str(copy / "__init__.py"),
        str(copy / "slurm" / "rank.py"),
    }
    # The process of the job and its two ranks.
    assert output.count(f"imported {copy / 'slurm' / 'rank.py'}") == 3
