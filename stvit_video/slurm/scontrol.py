"""Ask SLURM about its partitions and jobs; ``scontrol`` answers without accounting."""

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

_UNLIMITED = ("UNLIMITED", "INFINITE")
# [DAYS-]HOURS:MINUTES[:SECONDS] and DAYS-HOURS, or MINUTES[:SECONDS] and HOURS:MINUTES:SECONDS.
_WITH_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?")
_WITHOUT_DAYS = re.compile(r"(?:(?:(\d+):)?(\d+):(\d+))|(\d+)")


def parse_minutes(text: str) -> int | None:
    """Return whole minutes, rounded up, of a SLURM time such as "90", "12:00:00" or "2-12".

    Returns:
        The minutes, or None where there is no limit ("UNLIMITED").

    Raises:
        UserError: ``text`` is none of SLURM's forms.
    """
    if text.upper() in _UNLIMITED:
        return None
    if match := _WITH_DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := _WITHOUT_DAYS.fullmatch(text):
        days = 0
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
        minutes += int(match[4] or 0)
    else:
        raise UserError(
            f'a time limit is written as SLURM does, but it is "{text}": write MINUTES, '
            "HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"
        )
    return (days * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)


def format_minutes(minutes: int) -> str:
    """Write minutes as D-HH:MM:00, without the days where there are none."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-" * (days > 0) + f"{rest // 60:02}:{rest % 60:02}:00"


# A busy controller answers late; one that is down never does.
_PATIENCE_SECONDS = 60
# "Key=value" up to the next key: values may hold spaces.
_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)")

# "gpu:8" or "gpu:TYPE:8" among a node's generic resources.
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,()]*[^\d:,()][^:,()]*)?(?::(\d+))?")

# States in which a job will do nothing more; all others lead on to another state. A job that is
# requeued when it is preempted is PENDING, not PREEMPTED. ENDED is ours: SLURM has forgotten the
# job, and it left no result behind.
_ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("ENDED", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)


@dataclass(frozen=True)
class Partition:
    """A partition: what a job in it may ask for.

    Attributes:
        name: its name.
        is_default: jobs that name no partition go there.
        is_hidden: it is not shown to those who do not know it.
        is_up: it takes and starts jobs.
        max_minutes: longest time limit; None: no limit.
        max_nodes: most nodes of a job.
        node_cpus: cores of its largest node; None: unknown, as it has no nodes now.
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


class NoAnswerError(UserError):
    """SLURM does not answer; a controller that is busy or restarting does so after a while."""


def check_slurm() -> None:
    """Look for SLURM's programs.

    Raises:
        UserError: this machine has none.
    """
    missing = [
        name for name in ("sbatch", "srun", "scontrol", "sinfo") if shutil.which(name) is None
    ]
    if missing:
        raise UserError(
            f"jobs are submitted where SLURM's programs are, but there is no {missing[0]} in PATH: "
            "start this on the cluster's login node, or add --local to run on this machine"
        )


def read_partitions() -> list[Partition]:
    """Ask for all partitions, hidden ones too, as sbatch takes jobs for them.

    Raises:
        UserError: SLURM does not answer.
    """
    nodes: dict[str, list[tuple[int, int]]] = {}
    for line in _ask("sinfo", "--all", "--noheader", "--Node", "--format=%P|%c|%G").splitlines():
        name, cpus, resources = line.split("|", maxsplit=2)
        nodes.setdefault(name.rstrip("*"), []).append((int(cpus), count_gpus(resources)))
    lines = _ask("scontrol", "--all", "show", "partition", "--oneliner").splitlines()
    found = [fields(line) for line in lines if "PartitionName=" in line]
    return [_partition(one, nodes.get(one["PartitionName"], [])) for one in found]


def count_gpus(resources: str) -> int:
    """Return the GPUs of a node of "gpu:a100:8(S:0-1),gpu:v100:2,mps:400"."""
    return sum(int(number or 1) for number in _GPUS.findall(resources))


def read_job(job_id: str) -> JobFacts | None:
    """Ask for a job, or return None where SLURM does not know it (any more).

    Raises:
        UserError: SLURM does not answer.
    """
    try:
        line = _ask("scontrol", "--all", "show", "job", job_id, "--oneliner")
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


def jobs_from(folder: Path) -> list[str]:
    """Return the user's jobs that wait or run and whose batch script is in ``folder``.

    Raises:
        UserError: SLURM does not answer.
    """
    mine = ("--all", f"--user={os.getuid()}", "--noheader", "--format=%i %o")
    jobs = [line.strip().partition(" ") for line in _ask("squeue", *mine).splitlines()]
    return [job_id for job_id, _, script in jobs if Path(script).parent == folder]


def cancel(job_id: str) -> None:
    """Cancel a job; one that is over already is left alone.

    Raises:
        UserError: SLURM refuses, or does not answer.
    """
    with suppress(_UnknownJobError):
        _ask("scancel", "--quiet", job_id)


def requeue_job(job_id: str) -> None:
    """Put a job back into the queue; SLURM ends its processes.

    Raises:
        UserError: SLURM refuses, or does not answer.
    """
    _ask("scontrol", "requeue", job_id)


def fields(line: str) -> dict[str, str]:
    """Read a line of ``scontrol --oneliner``."""
    return dict(_FIELD.findall(line))


class _UnknownJobError(UserError):
    pass


def _partition(found: Mapping[str, str], nodes: Sequence[tuple[int, int]]) -> Partition:
    total = int(found["TotalNodes"])
    max_nodes = found.get("MaxNodes", "UNLIMITED")
    return Partition(
        name=found["PartitionName"],
        is_default=found.get("Default") == "YES",
        is_hidden=found.get("Hidden") == "YES",
        is_up=found.get("State") == "UP",
        max_minutes=parse_minutes(found["MaxTime"]),
        max_nodes=min(total, int(max_nodes)) if max_nodes.isdigit() else total,
        node_cpus=max((cpus for cpus, _ in nodes), default=None),
        node_gpus=max((gpus for _, gpus in nodes), default=0),
    )


def _ask(*command: str) -> str:
    """Run one of SLURM's programs and return what it prints."""
    told = " ".join(command)
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError(f"SLURM cannot be asked, as there is no {command[0]} in PATH") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(
            f"SLURM did not answer in {_PATIENCE_SECONDS} s ({told}): try again"
        ) from None
    if answer.returncode:
        problem = answer.stderr.strip().partition("\n")[0]
        if "Invalid job id" in problem:
            raise _UnknownJobError(problem)
        raise NoAnswerError(f"SLURM does not answer ({told}): {problem}")
    return answer.stdout
