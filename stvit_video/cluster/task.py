"""The place of a process in a SLURM job, as SLURM writes it into the environment."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmTask:
    """A task of a job, or its batch script, which stands at the place of task 0.

    Attributes:
        job_id: SLURM's number of the job; in an array, of this one of its jobs.
        restarts: how often the job was requeued before.
        rank: index among all tasks.
        node: SLURM's name of the machine.
    """

    job_id: str
    restarts: int
    rank: int
    node: str

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "SlurmTask | None":
        """Return the task that ``env`` belongs to, or None outside the jobs of submitit.

        A shell that was opened inside somebody's job has SLURM's variables too, and that job is
        not ours to requeue.
        """
        if env.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in env:
            return None
        return cls(
            job_id=env["SLURM_JOB_ID"],
            restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
            rank=int(env.get("SLURM_PROCID", "0")),
            node=env.get("SLURMD_NODENAME", ""),
        )
