"""What each worker process is reading, so that the main process can name it if one dies."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

# How long a process that has closed its connections may take to be seen as ended.
_DYING_SECONDS = 2.0
# What ends a process from outside, be it a lack of memory or a file system that stands still, and
# so may have nothing to do with what it was reading.
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}


class Death(NamedTuple):
    """The end of a worker: the video that it was reading (-1: none), and what happened."""

    video: int
    cause: str
    # Whether the process ended by itself; if not, another try may go well.
    is_crash: bool


class WorkerWatch:
    """A table in shared memory: the process of each worker, and the video that it is reading.

    It also ends a worker that reads one video for too long. That is done by the kernel, so it
    works where the decoder hangs without ever coming back to Python.

    Args:
        num_workers: processes; with none, nothing is watched.
        seconds: limit of the time for one video; 0: none.
    """

    def __init__(self, *, num_workers: int, seconds: float) -> None:
        self._seconds = seconds
        # [workers, 2]: process id, and the video's index or -1.
        self._reading = torch.full((max(1, num_workers), 2), -1).share_memory_()

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Read video ``index`` inside the block; to be called in a worker."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        row = self._reading[worker.id]
        row[0], row[1] = os.getpid(), index
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            row[1] = -1

    def deaths(self, workers: Sequence[BaseProcess]) -> list[Death]:
        """How workers have died.

        Call it when a worker may have died, which takes the system a moment to show.
        """
        workers = [worker for worker in workers if worker.pid is not None]
        ending = connection.wait([worker.sentinel for worker in workers], timeout=_DYING_SECONDS)
        for worker in workers:
            if worker.sentinel in ending:
                worker.join(_DYING_SECONDS)  # its files are closed a moment before it has ended
        videos = {int(pid): int(index) for pid, index in self._reading}
        return [
            Death(
                videos.get(worker.pid or 0, -1),
                self._describe(worker.exitcode),
                is_crash=-worker.exitcode not in _FROM_OUTSIDE,
            )
            for worker in workers
            if worker.exitcode is not None
        ]

    def _describe(self, status: int) -> str:
        if status == -signal.SIGALRM:
            return f"reading it took longer than {self._seconds:g} s (DATA.DECODE_TIMEOUT)"
        if status >= 0:
            return f"the worker that read it ended with exit status {status}"
        hint = " (often a lack of memory)" if status == -signal.SIGKILL else ""
        return f"the worker that read it was ended by {signal.Signals(-status).name}{hint}"


def end_on_alarm() -> None:
    """Let the alarm of `WorkerWatch.reading` end this process; to be called when a worker starts.

    A handler, which the main process may have handed down, would wait for a hanging decoder.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
