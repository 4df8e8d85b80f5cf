"""The worker side of a data loader: samples, reports of bad videos, and what ends a worker."""

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from stvit_video.data.bad_videos import BadVideo, BadVideoError
from stvit_video.data.samplers import Draw
from stvit_video.errors import UserError
from stvit_video.runtime.process import describe_exit


def leave_stopping_to_parent() -> None:
    """Let this process be ended by the one that started it, and not by a cluster.

    SLURM signals every process of a job, so also the workers of a rank that is to finish its step:
    USR1 and USR2 would end them, or run the handler that they inherited, and so would TERM, by
    which the parent itself ends workers. Who sent it is told by ``sigwaitinfo`` alone. (Of two that
    come at the same moment the system passes on the first; a parent that ends sends another.)
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # In every thread that will be started from here; blocked, the signal is left to the one below.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)


# How long a process that has closed its connections may take to be seen as ended.
_DYING_SECONDS = 2.0
# What ends a process from outside, be it a lack of memory or a file system that stands still, and
# so may have nothing to do with what it was reading.
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}


class WorkerExit(NamedTuple):
    """The end of a worker: the video that it was reading (-1: none), and what happened."""

    video: int
    cause: str
    # Whether the process ended by itself; if not, another try may go well.
    is_crash: bool


class WorkerMonitor:
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

    def exits(self, workers: Sequence[BaseProcess]) -> list[WorkerExit]:
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
            WorkerExit(
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
        return f"the worker that read it {describe_exit(status)}"


def exit_on_alarm() -> None:
    """Let the alarm of `WorkerMonitor.reading` end this process; to be called when a worker starts.

    A handler, which the main process may have handed down, would wait for a hanging decoder.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


# Of [..., C, T, H, W], in which pixels lie in memory as [..., T, H, W, C]: the decoder's order.
_CHANNELS, _LAST = -4, -1


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples as `default_collate` does, but leave the pixels in their order in memory.

    The result is the same to the last bit. Only, to change the order of uint8 pixels takes several
    times as long as to copy them; it is left to the device, where it comes with the conversion to
    floats. Samples without a video, as those of a check, are stacked as they are.
    """
    if "video" not in samples[0]:
        return default_collate(list(samples))
    in_memory_order = [
        {**sample, "video": sample["video"].movedim(_CHANNELS, _LAST)} for sample in samples
    ]
    batch = default_collate(in_memory_order)
    batch["video"] = batch["video"].movedim(_LAST, _CHANNELS)
    return batch


# What a data set is indexed with.
Key: TypeAlias = Draw | int
# A sample (None: its video is bad and there is no other), and what went wrong on the way to it.
Item: TypeAlias = tuple[Any, list[BadVideo]]


class Videos(Protocol):
    """What a data set of videos must offer."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Make a sample, or raise a `BadVideoError`."""

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Describe a video that cannot be read."""


class FaultTolerantDataset(Dataset[Item]):
    """Samples of a data set, and reports of the videos that could not be read.

    Args:
        datasets: the same data set over the decoder of the config and, if there is a second try,
            over another one.
        replace: gives the sample that takes the place of a bad one at the n-th try, n from 1;
            None: there is none.
        max_bad: with more bad videos than this the run stops, so no more are tried for one sample.
        watch: is told which video is being read.

    Attributes:
        is_killer: for each video whether it is not to be opened; in memory that all processes
            share.
    """

    def __init__(
        self,
        datasets: Sequence[Videos],
        *,
        replace: Callable[[Draw, int], Draw] | None,
        max_bad: int,
        watch: WorkerMonitor,
    ) -> None:
        self.crashes_worker = torch.zeros(len(datasets[0]), dtype=torch.bool).share_memory_()
        self._datasets = datasets
        self._replace = replace
        self._max_bad = max_bad
        self._watch = watch

    def __len__(self) -> int:
        return len(self._datasets[0])

    def __getitem__(self, key: Key) -> Item:
        """Make a sample; a `UserError` that is about no video comes as the sample."""
        reports: list[BadVideo] = []
        sample = self._read(key, reports)
        tried = {video_index(key)}
        attempt = 0
        # Which sample takes the place depends on the draw and on the files alone, not on what
        # this worker has seen before, so that the samples of an epoch are always the same.
        while sample is None and isinstance(key, Draw) and self._replace is not None:
            if len(tried) > self._max_bad or len(tried) == len(self):
                break
            attempt += 1
            other = self._replace(key, attempt)
            if other.index not in tried:
                tried.add(other.index)
                sample = self._read(other, reports)
        return sample, reports

    def _read(self, key: Key, reports: list[BadVideo]) -> Any:
        index = video_index(key)
        if self.crashes_worker[index]:
            return None  # the main process has said so, and needs no report
        errors = []
        for dataset in self._datasets:
            try:
                with self._watch.reading(index):
                    sample = dataset[key]
            except BadVideoError as error:
                errors.append(error.bad.error)
            except UserError as error:
                return UserError(str(error))
            except StopIteration:
                # Raised further, it would end the epoch in silence.
                errors.append("its decoder gave fewer frames than it promised (StopIteration)")
            else:
                if errors:
                    reports.append(self._report(index, errors[0], second_try=True))
                return sample
        reports.append(self._report(index, errors[0]))
        return None

    def _report(self, index: int, error: str, *, second_try: bool = False) -> BadVideo:
        bad = self._datasets[0].bad_video(index, error)
        return dataclasses.replace(bad, second_try=second_try)


def video_index(key: Key) -> int:
    """The number in the data set of the video that a sample is made of."""
    return key.index if isinstance(key, Draw) else key


def collate_items(
    items: list[Item], *, collate: Callable[[list[dict[str, Any]]], Any] = collate
) -> Item:
    """Make a batch of the samples that there are (None of none), and gather the reports."""
    reports = [report for _, item_reports in items for report in item_reports]
    samples = [sample for made, _ in items for sample in _samples(made)]
    mistakes = [sample for sample in samples if isinstance(sample, UserError)]
    if mistakes:
        return mistakes[0], reports
    return (collate(samples) if samples else None), reports


def _samples(made: Any) -> list[Any]:
    """Give the samples of one item, which may be none or several."""
    if made is None:
        return []
    return made if isinstance(made, list) else [made]
