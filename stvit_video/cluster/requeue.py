"""Putting the job of this process back into SLURM's queue, once."""

import signal
import time
from collections.abc import Callable

from stvit_video.cluster.slurm import read_job, requeue_job
from stvit_video.cluster.task import SlurmTask
from stvit_video.errors import UserError

# A controller that is busy or restarting answers after a while.
_PAUSES = (1.0, 4.0, 10.0)


class RequeueError(RuntimeError):
    """SLURM could not be asked, or did not take the job back into its queue."""


def requeue(task: SlurmTask) -> bool:
    """Requeue the job of ``task``, unless SLURM has done that or is ending the job.

    After ``scontrol requeue``, a preemption without grace time or a failed node SLURM has requeued
    it already, and after ``scancel`` it must not come back.

    Returns:
        Whether it was requeued here.

    Raises:
        RequeueError: SLURM refuses, or does not answer.
    """

    def requeue_if_running() -> bool:
        if not _is_running(task):
            return False
        requeue_job(task.job_id)
        return True

    # What it asks SLURM for ends all processes of the job, scontrol among them, which must be able
    # to say whether that was granted; it inherits what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        return _patiently(requeue_if_running)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_running(task: SlurmTask) -> bool:
    """Whether the job runs, and has not been requeued since ``task`` began.

    Raises:
        RequeueError: SLURM does not answer.
    """
    return _patiently(lambda: _is_running(task))


def _patiently(ask: Callable[[], bool]) -> bool:
    for pause in _PAUSES:
        try:
            return ask()
        except UserError:
            time.sleep(pause)
    try:
        return ask()
    except UserError as error:
        raise RequeueError(str(error)) from error


def _is_running(task: SlurmTask) -> bool:
    facts = read_job(task.job_id)
    return facts is not None and facts.state == "RUNNING" and facts.restarts == task.restarts
