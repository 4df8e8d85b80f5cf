"""Putting the job of this process back into SLURM's queue, once."""

import re
import subprocess
import time

from stvit_video.cluster.task import SlurmTask

# A controller that is busy or restarting answers after a while.
_PAUSES = (1.0, 4.0, 10.0)
_PATIENCE_SECONDS = 60


class RequeueError(RuntimeError):
    """SLURM did not take the job back into its queue."""


def requeue(task: SlurmTask) -> bool:
    """Requeue the job of ``task``, unless SLURM has done that or is ending the job.

    After ``scontrol requeue``, a preemption without grace time or a failed node SLURM has requeued
    it already, and after ``scancel`` it must not come back.

    Returns:
        Whether it was requeued here.

    Raises:
        RequeueError: SLURM refuses, or does not answer.
    """
    problem = ""
    for pause in (*_PAUSES, 0.0):
        try:
            if not is_running(task):
                return False
            _scontrol("requeue", task.job_id)
            return True
        except (OSError, subprocess.SubprocessError) as error:
            problem = (getattr(error, "stderr", "") or str(error)).strip()
        time.sleep(pause)
    raise RequeueError(f"job {task.job_id} could not be requeued ({problem})")


def is_running(task: SlurmTask) -> bool:
    """Whether the job runs, and has not been started again since ``task`` was."""
    answer = _scontrol("show", "job", task.job_id, "--oneliner")
    state = re.search(r" JobState=(\w+)", answer)
    restarts = re.search(r" Restarts=(\d+)", answer)
    assert state and restarts, answer
    return state[1] == "RUNNING" and int(restarts[1]) == task.restarts


def _scontrol(*arguments: str) -> str:
    return subprocess.run(
        ["scontrol", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=_PATIENCE_SECONDS,
    ).stdout
