"""Query and control SLURM through its command line tools; none of them needs accounting."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stvit_video.errors import UserError

# A busy controller answers late, and one that is down never does.
_TIMEOUT_SECONDS = 60
# States that a job does not leave. A job that is requeued when it is preempted is PENDING, not
# PREEMPTED. ENDED is not SLURM's: it has forgotten the job, and the job left no result.
_FINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "ENDED",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
# "Key=value" up to the next key: values may contain spaces.
_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)")
# "gpu:8" or "gpu:TYPE:8" in a list of generic resources (GRES).
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,()]*[^\d:,()][^:,()]*)?(?::(\d+))?")
_UNLIMITED = ("UNLIMITED", "INFINITE")
# DAYS-HOURS[:MINUTES[:SECONDS]]
_TIME_WITH_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?")
# MINUTES[:SECONDS] or HOURS:MINUTES:SECONDS
_TIME_WITHOUT_DAYS = re.compile(r"(?:(?:(\d+):)?(\d+):(\d+))|(\d+)")


@dataclass(frozen=True)
class Partition:
    """The limits of a partition.

    Attributes:
        name: its name.
        is_default: jobs that name no partition go there.
        is_hidden: it is not listed for users without access.
        is_up: it accepts and starts jobs.
        max_minutes: longest time limit; None: no limit.
        max_nodes: largest number of nodes per job.
        node_cpus: cores of its largest node; None: unknown, because it has no nodes now.
        node_gpus: GPUs of the node that has most.
    """

    name: str
    is_default: bool
    is_hidden: bool
    is_up: bool
    max_minutes: int | None
    max_nodes: int
    node_cpus: int | None
    node_gpus: int


@dataclass(frozen=True)
class JobInfo:
    """The state of a job as SLURM reports it, until it forgets the job minutes after its end.

    Attributes:
        state: SLURM's word: "PENDING", "RUNNING", "COMPLETED", ...
        reason: why it waits or failed; "None" if there is no reason.
        restarts: how often it was requeued; None: unknown.
        output: output file of the batch script. It identifies the job, because job ids start
            again when a cluster is set up anew.
    """

    state: str
    reason: str
    restarts: int | None
    output: str

    @property
    def is_over(self) -> bool:
        """Whether the job has reached its final state."""
        return self.state in _FINAL_STATES

    def describe(self) -> str:
        """Return the state with its reason, such as "PENDING (Resources)"."""
        return f"{self.state} ({self.reason})" if self.reason != "None" else self.state


class SlurmUnavailableError(UserError):
    """SLURM does not respond; a controller that is busy or restarting does so after a while."""


class _UnknownJobError(UserError):
    pass


def check_slurm() -> None:
    """Check that SLURM's commands are installed.

    Raises:
        UserError: this machine lacks one.
    """
    for command in ("sbatch", "srun", "scontrol", "sinfo"):
        if shutil.which(command) is None:
            raise UserError(
                f"SLURM's commands are needed to submit jobs, but there is no {command} in PATH: "
                "run this on the cluster's login node, or add --local to run on this machine"
            )


def read_partitions() -> list[Partition]:
    """Return all partitions, including hidden ones, because sbatch accepts jobs for them.

    Raises:
        UserError: SLURM does not respond.
    """
    nodes: dict[str, list[tuple[int, int]]] = {}
    listed = _run("sinfo", "--all", "--noheader", "--Node", "--format=%P|%c|%G")
    for line in listed.splitlines():
        name, cpus, resources = line.split("|", maxsplit=2)
        nodes.setdefault(name.rstrip("*"), []).append((int(cpus), count_gpus(resources)))
    lines = _run("scontrol", "--all", "show", "partition", "--oneliner").splitlines()
    partitions = [parse_fields(line) for line in lines if "PartitionName=" in line]
    return [_build_partition(each, nodes.get(each["PartitionName"], [])) for each in partitions]


def read_job(job_id: str) -> JobInfo | None:
    """Return the state of a job, or None if SLURM does not know it (any more).

    Raises:
        UserError: SLURM does not respond.
    """
    try:
        line = _run("scontrol", "--all", "show", "job", job_id, "--oneliner")
    except _UnknownJobError:
        return None
    values = parse_fields(line)
    if "JobState" not in values:
        return None
    return JobInfo(
        state=values["JobState"],
        reason=values.get("Reason", "None"),
        restarts=int(values.get("Restarts", 0)),
        output=values.get("StdOut", ""),
    )


def find_queued_jobs(folder: Path) -> list[str]:
    """Return the ids of the user's pending and running jobs whose batch script is in ``folder``.

    Raises:
        UserError: SLURM does not respond.
    """
    options = ("--all", f"--user={os.getuid()}", "--noheader", "--format=%i %o")
    jobs = [line.strip().partition(" ") for line in _run("squeue", *options).splitlines()]
    return [job_id for job_id, _, script in jobs if Path(script).parent == folder]


def cancel_job(job_id: str) -> None:
    """Cancel a job; do nothing if it is over.

    Raises:
        UserError: SLURM refuses, or does not respond.
    """
    with suppress(_UnknownJobError):
        _run("scancel", "--quiet", job_id)


def requeue_job(job_id: str) -> None:
    """Put a job back into the queue; SLURM ends its processes.

    Raises:
        UserError: SLURM refuses, or does not respond.
    """
    _run("scontrol", "requeue", job_id)


def _run(*command: str) -> str:
    """Run one of SLURM's commands and return its output."""
    shown = " ".join(command)
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError(
            f"SLURM cannot be queried, because there is no {command[0]} in PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmUnavailableError(
            f"SLURM did not respond within {_TIMEOUT_SECONDS} s ({shown}): try again"
        ) from None
    if result.returncode:
        problem = result.stderr.strip().partition("\n")[0]
        if "Invalid job id" in problem:
            raise _UnknownJobError(problem)
        raise SlurmUnavailableError(f"SLURM's command {shown} failed: {problem}")
    return result.stdout


def _build_partition(values: Mapping[str, str], nodes: Sequence[tuple[int, int]]) -> Partition:
    """Build a partition from scontrol's fields and the cores and GPUs of each node."""
    total = int(values["TotalNodes"])
    max_nodes = values.get("MaxNodes", "UNLIMITED")
    return Partition(
        name=values["PartitionName"],
        is_default=values.get("Default") == "YES",
        is_hidden=values.get("Hidden") == "YES",
        is_up=values.get("State") == "UP",
        max_minutes=parse_minutes(values["MaxTime"]),
        max_nodes=min(total, int(max_nodes)) if max_nodes.isdigit() else total,
        node_cpus=max((cpus for cpus, _ in nodes), default=None),
        node_gpus=max((gpus for _, gpus in nodes), default=0),
    )


def parse_fields(line: str) -> dict[str, str]:
    """Parse a line of ``scontrol --oneliner``."""
    return dict(_FIELD.findall(line))


def count_gpus(resources: str) -> int:
    """Return the number of GPUs in a GRES list, "gpu:a100:8(S:0-1),gpu:v100:2,mps:400"."""
    return sum(int(number or 1) for number in _GPUS.findall(resources))


def parse_minutes(text: str) -> int | None:
    """Parse a SLURM time such as "90", "12:00:00" or "2-12".

    Returns:
        Whole minutes, rounded up, or None for "UNLIMITED".

    Raises:
        UserError: ``text`` has none of SLURM's formats.
    """
    if text.upper() in _UNLIMITED:
        return None
    if match := _TIME_WITH_DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := _TIME_WITHOUT_DAYS.fullmatch(text):
        days = 0
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
        minutes += int(match[4] or 0)
    else:
        raise UserError(
            f'a time limit must have one of SLURM\'s formats, but it is "{text}": write MINUTES, '
            "HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"
        )
    return (days * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)


def format_minutes(minutes: int) -> str:
    """Format minutes as D-HH:MM:00, or HH:MM:00 below a day."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-" * (days > 0) + f"{rest // 60:02}:{rest % 60:02}:00"
