"""Without SLURM, the tests that need it are skipped with a reason."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_tests_that_need_slurm_are_skipped_with_a_reason(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "tests/slurm/nodes"],
        cwd=ROOT,
        # Daemons are also searched for in other folders, but the user commands are not.
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (reason, *others) = re.findall(r"^SKIPPED .*: (no SLURM here .*)$", done.stdout, re.MULTILINE)
    assert re.fullmatch(
        r"no SLURM here \(\w+ is missing\): make test-slurm installs it where it may", reason
    )
    assert set(others) <= {reason}
    # None has run.
    assert re.fullmatch(r"\d\d skipped in .*s", done.stdout.splitlines()[-1])
