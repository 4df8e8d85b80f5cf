"""A small run to launch, and fake SLURM commands."""

import os
import stat
from pathlib import Path

import pytest
from small_run import SMALL_CONFIG

ROOT = Path(__file__).resolve().parents[2]

# Output of scontrol of SLURM 22.05, shortened.
PARTITIONS = """\
PartitionName=debug AllowGroups=ALL AllowAccounts=ALL Default=YES QoS=N/A DefaultTime=NONE \
MaxNodes=UNLIMITED MaxTime=2-00:00:00 MinNodes=0 Nodes=n[1-4] State=UP TotalCPUs=8 TotalNodes=4 \
SelectTypeParameters=NONE
PartitionName=long AllowGroups=ALL Default=NO MaxNodes=2 MaxTime=UNLIMITED State=UP TotalNodes=4
PartitionName=old AllowGroups=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED State=DOWN \
TotalNodes=4
PartitionName=secret Default=NO Hidden=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=UP \
TotalNodes=8
"""

# Output of sinfo -ahN -o "%P|%c|%G".
NODES = """\
debug*|8|gpu:2(S:0)
long|4|(null)
long|16|gpu:a100:8(S:0-1),gpu:v100:1,mps:100
secret|32|gpu:8
"""
SINFO = """\
case "$*" in
*--all*) cat "$(dirname "$0")/nodes" ;;
*) grep -v ^secret "$(dirname "$0")/nodes" ;;
esac
"""

# The jobs are in files jobs/ID, and the scripts given to sbatch in scripts/ID.
SCONTROL = """\
here=$(dirname "$0")
case "$*" in
"--all show partition --oneliner") cat "$here/partitions" ;;
"show partition --oneliner") grep -v Hidden=YES "$here/partitions" ;;
"--all show job "*)
    if [ -f "$here/jobs/$4" ]; then cat "$here/jobs/$4"
    else echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi ;;
*) echo "scontrol: no such thing: $*" >&2; exit 1 ;;
esac
"""
SBATCH = """\
here=$(dirname "$0")
if [ -f "$here/refusal" ] && grep -q "$(cat "$here/refusal")" "$1"; then
    echo "sbatch: error: Batch job submission failed: Invalid qos specification" >&2; exit 1
fi
if [ -f "$here/silence" ] && [ "$(cat "$here/silence")" = before ]; then
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv" >&2; exit 1
fi
number=$(($(ls "$here/scripts" | wc -l) + 1))
cp "$1" "$here/scripts/$number"
echo "$number $1" >> "$here/queue"
env > "$here/env"
if [ -f "$here/silence" ]; then
    if [ "$(cat "$here/silence")" = interrupted ]; then kill -INT $PPID; sleep 1; fi
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv" >&2; exit 1
fi
echo "Submitted batch job $number"
"""
SQUEUE = 'cat "$(dirname "$0")/queue"\n'
SCANCEL = """\
here=$(dirname "$0")
if [ -f "$here/refuses_scancel" ]; then echo "scancel: error: Socket timed out" >&2; exit 1; fi
echo "$2" >> "$here/cancelled"
"""


class FakeSlurm:
    """Commands in a folder of PATH that respond as SLURM's do, but run no jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("jobs", "scripts"):
            (folder / name).mkdir(parents=True)
        (folder / "partitions").write_text(PARTITIONS)
        (folder / "nodes").write_text(NODES)
        (folder / "queue").write_text("77 /elsewhere/77_submission.sh\n")
        programs = {"sbatch": SBATCH, "scontrol": SCONTROL, "scancel": SCANCEL, "squeue": SQUEUE}
        programs |= {"sinfo": SINFO, "srun": "exit 1\n"}
        for name, text in programs.items():
            program = folder / name
            program.write_text(f"#!/bin/sh\n{text}")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def scripts(self) -> list[str]:
        """The submitted batch scripts, in order."""
        files = sorted((self.folder / "scripts").iterdir(), key=lambda file: int(file.name))
        return [file.read_text() for file in files]

    @property
    def cancelled(self) -> list[str]:
        file = self.folder / "cancelled"
        return file.read_text().splitlines() if file.exists() else []

    def refuse(self, pattern: str) -> None:
        """Reject scripts in which a line matches ``pattern``."""
        (self.folder / "refusal").write_text(pattern)

    def refuse_to_cancel(self) -> None:
        (self.folder / "refuses_scancel").touch()

    def fall_silent(self, when: str) -> None:
        """Make sbatch lose the connection "before" or "after" it has queued the job.

        If "interrupted", sbatch and the program receive SIGINT after that, as on Ctrl-C.
        """
        (self.folder / "silence").write_text(when)

    def set_job(self, job_id: str, state: str, *, output: str = "", restarts: int = 0) -> None:
        line = (
            f"JobId={job_id} JobName=a b UserId=me(1) JobState={state} Reason=Resources "
            f"Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 Command=/x y/z.sh "
            f"StdOut={output} Power=\n"
        )
        (self.folder / "jobs" / job_id).write_text(line)


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch) -> FakeSlurm:
    slurm = FakeSlurm(tmp_path / "slurm programs")
    monkeypatch.setenv("PATH", f"{slurm.folder}{os.pathsep}{os.environ['PATH']}")
    return slurm


@pytest.fixture
def config_file(tmp_path, video_folder) -> Path:
    """The config of ``small_run`` with its data set, and OUTPUT_DIR in the working directory."""
    path = tmp_path / "small.yaml"
    path.write_text(
        SMALL_CONFIG.replace("DATA:", f"DATA:\n  PATH_TO_DATA_DIR: {video_folder}")
        + "OUTPUT_DIR: run\n"
    )
    return path
