import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stvit_video.slurm import submit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout in place of this one, with a commit, a changed file and a new file."""
    root = tmp_path / "checkout"
    (root / "stvit_video" / "__pycache__").mkdir(parents=True)
    (root / "configs").mkdir()
    (root / "stvit_video" / "a.py").write_text("A = 1\n")
    (root / "stvit_video" / "__pycache__" / "a.pyc").write_text("")
    (root / "setup.py").write_text("")
    (root / "data").mkdir()
    (root / "data" / "large.bin").write_text("")
    for command in (
        ["init", "-q"],
        ["add", "stvit_video/a.py"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "stvit_video" / "a.py").write_text("A = 2\n")
    (root / "stvit_video" / "new.py").write_text("B = 1\n")
    monkeypatch.setattr(submit, "_code_root", lambda: root)
    return root


def test_the_copy_is_what_runs_and_nothing_else(checkout, tmp_path):
    submit.copy_code(tmp_path / "code")
    files = {
        path.relative_to(tmp_path / "code").as_posix()
        for path in (tmp_path / "code").rglob("*")
        if path.is_file()
    }
    assert files == {"stvit_video/a.py", "stvit_video/new.py", "setup.py"}
    (checkout / "stvit_video" / "a.py").write_text("A = 3\n")
    assert (tmp_path / "code" / "stvit_video" / "a.py").read_text() == "A = 2\n"


def test_commit_and_changes_are_recorded(checkout, tmp_path):
    submit.write_versions(tmp_path)
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    version = (tmp_path / "code_version.txt").read_text()
    assert version.startswith(f"commit {commit}\n")
    assert " M stvit_video/a.py" in version
    assert "?? stvit_video/new.py" in version
    assert "-A = 1\n+A = 2\n" in (tmp_path / "code.diff").read_text()


def test_changes_in_another_encoding_are_recorded(checkout, tmp_path):
    (checkout / "stvit_video" / "a.py").write_bytes("# caf\xe9\n".encode("latin-1"))
    submit.write_versions(tmp_path)
    assert b"+# caf\xe9\n" in (tmp_path / "code.diff").read_bytes()


def test_the_version_says_that_there_is_no_git(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    submit.write_versions(tmp_path)
    assert (tmp_path / "code_version.txt").read_text().startswith("no git")


def test_of_an_installed_package_only_the_package_is_copied(checkout, tmp_path):
    (checkout / "setup.py").unlink()
    (checkout / "tools").mkdir()
    submit.copy_code(tmp_path / "code")
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["stvit_video"]


def test_the_packages_are_listed(checkout, tmp_path):
    submit.write_versions(tmp_path)
    lines = (tmp_path / "environment.txt").read_text().splitlines()
    assert sys.executable in lines[0]
    assert any(line.startswith("torch==2") for line in lines)


def test_this_checkout_is_found(tmp_path):
    submit.copy_code(tmp_path / "code")
    copy = tmp_path / "code" / "stvit_video" / "slurm" / "submit.py"
    assert copy.read_bytes() == Path(submit.__file__).read_bytes()
    assert (tmp_path / "code" / "configs" / "k400" / "swin_t.yaml").is_file()
