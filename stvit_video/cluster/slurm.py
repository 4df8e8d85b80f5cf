"""What SLURM says of its partitions and jobs; ``scontrol`` answers without accounting."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from stvit_video.cluster.time_limit import parse_minutes
from stvit_video.errors import UserError

# A busy controller answers late; one that is down never does.
_PATIENCE_SECONDS = 60
# "Key=value" up to the next key: values may hold spaces.
_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)")

# States in which a job will do nothing more; all others lead on to another state. ENDED is ours:
# SLURM has forgotten the job, and it left no result behind.
_ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("ENDED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"),
)


@dataclass(frozen=True)
class Partition:
    """A partition: what a job in it may ask for.

    Attributes:
        name: its name.
        is_default: jobs that name no partition go there.
        is_up: it takes and starts jobs.
        max_minutes: longest time limit; None: no limit.
        max_nodes: most nodes of a job.
    """

    name: str
    is_default: bool
    is_up: bool
    max_minutes: int | None
    max_nodes: int


@dataclass(frozen=True)
class JobFacts:
    """What SLURM knows of a job, which it forgets some minutes after its end.

    Attributes:
        state: SLURM's word: "PENDING", "RUNNING", "COMPLETED", ...
        reason: why it waits or failed; "None" where there is nothing to say.
        restarts: how often it was requeued; None: nobody knows any more.
        output: file of the batch script's output, which tells whose job it is: numbers are
            given out again when a cluster is set up anew.
    """

    state: str
    reason: str
    restarts: int | None
    output: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in _ENDED


def check_slurm() -> None:
    """Look for SLURM's programs.

    Raises:
        UserError: this machine has none.
    """
    missing = [name for name in ("sbatch", "srun", "scontrol") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"jobs are submitted where SLURM's programs are, but there is no {missing[0]} in PATH: "
            "start this on the cluster's login node, or add --local to run on this machine"
        )


def read_partitions() -> list[Partition]:
    """Ask for all partitions.

    Raises:
        UserError: SLURM does not answer.
    """
    lines = _scontrol("show", "partition", "--oneliner").splitlines()
    return [_partition(fields(line)) for line in lines if "PartitionName=" in line]


def read_job(job_id: str) -> JobFacts | None:
    """Ask for a job, or return None where SLURM does not know it (any more).

    Raises:
        UserError: SLURM does not answer.
    """
    try:
        line = _scontrol("show", "job", job_id, "--oneliner")
    except _UnknownJobError:
        return None
    found = fields(line)
    if "JobState" not in found:
        return None
    return JobFacts(
        state=found["JobState"],
        reason=found.get("Reason", "None"),
        restarts=int(found.get("Restarts", 0)),
        output=found.get("StdOut", ""),
    )


def cancel(job_id: str) -> None:
    """Cancel a job; one that is over already is left alone."""
    subprocess.run(["scancel", job_id], check=False, timeout=_PATIENCE_SECONDS)


def fields(line: str) -> dict[str, str]:
    """Read a line of ``scontrol --oneliner``."""
    return dict(_FIELD.findall(line))


class _UnknownJobError(Exception):
    pass


def _partition(found: Mapping[str, str]) -> Partition:
    total = int(found["TotalNodes"])
    max_nodes = found.get("MaxNodes", "UNLIMITED")
    return Partition(
        name=found["PartitionName"],
        is_default=found.get("Default") == "YES",
        is_up=found.get("State") == "UP",
        max_minutes=parse_minutes(found["MaxTime"]),
        max_nodes=min(total, int(max_nodes)) if max_nodes.isdigit() else total,
    )


def _scontrol(*arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["scontrol", *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("SLURM cannot be asked, as there is no scontrol in PATH") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"SLURM did not answer in {_PATIENCE_SECONDS} s (scontrol {' '.join(arguments)}): "
            "try again, and see whether sinfo works"
        ) from None
    if answer.returncode:
        problem = answer.stderr.strip().partition("\n")[0]
        if "Invalid job id" in problem:
            raise _UnknownJobError
        raise UserError(f"SLURM does not answer (scontrol {' '.join(arguments)}): {problem}")
    return answer.stdout
