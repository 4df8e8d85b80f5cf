"""Worker side of the data loader: read samples, report bad videos, and observe worker exits."""

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
from stvit_video.data.samplers import SampleKey
from stvit_video.errors import UserError
from stvit_video.runtime.process import describe_exit

# What a data set is indexed with.
Key: TypeAlias = SampleKey | int
# A sample (None: its video is bad and has no replacement), and the bad videos found on the way.
Item: TypeAlias = tuple[Any, list[BadVideo]]

# Dimensions of [..., C, T, H, W]. In memory the pixels have the decoder's order [..., T, H, W, C].
_CHANNEL_DIM, _LAST_DIM = -4, -1

# Seconds to wait until a worker that has closed its connections is seen as exited.
_EXIT_TIMEOUT = 2.0

# Signals that end a process from outside, such as for a lack of memory or a file system that hangs.
# They may have nothing to do with the video that it was reading.
_EXTERNAL_SIGNALS = {
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGALRM,
}


class VideoSource(Protocol):
    """Interface of the data sets of videos that a `VideoLoader` reads."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Return a sample, or raise a `BadVideoError`."""

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Return the `BadVideo` of a video that cannot be read."""


class FaultTolerantDataset(Dataset[Item]):
    """Samples of a data set, with reports of the videos that could not be read.

    Args:
        datasets: the data set with the configured decoder, optionally followed by the same data
            set with a fallback decoder.
        replace: returns the sample that replaces a bad one at the n-th attempt, n from 1; None:
            bad samples are not replaced.
        max_bad: number of bad videos above which the run stops, so no more videos are tried for a
            sample.
        monitor: records which video is being read.

    Attributes:
        crashes_worker: whether each video must not be opened, bool [videos] in shared memory.
    """

    def __init__(
        self,
        datasets: Sequence[VideoSource],
        *,
        replace: Callable[[SampleKey, int], SampleKey] | None,
        max_bad: int,
        monitor: "WorkerMonitor",
    ) -> None:
        self.crashes_worker = torch.zeros(len(datasets[0]), dtype=torch.bool).share_memory_()
        self._datasets = datasets
        self._replace = replace
        self._max_bad = max_bad
        self._monitor = monitor

    def __len__(self) -> int:
        return len(self._datasets[0])

    def __getitem__(self, key: Key) -> Item:
        """Return a sample and reports; a `UserError` not about a video takes the sample's place."""
        reports: list[BadVideo] = []
        sample = self._read(key, reports)
        tried = {video_index(key)}
        attempt = 0
        # The replacement depends only on the key and the files, not on what this worker has read
        # before, so the samples of an epoch are reproducible.
        while sample is None and isinstance(key, SampleKey) and self._replace is not None:
            if len(tried) > self._max_bad or len(tried) == len(self):
                break
            attempt += 1
            other = self._replace(key, attempt)
            if other.index not in tried:
                tried.add(other.index)
                sample = self._read(other, reports)
        return sample, reports

    def _read(self, key: Key, reports: list[BadVideo]) -> Any:
        """Return a sample, or None if its video is bad; append what went wrong to ``reports``."""
        index = video_index(key)
        if self.crashes_worker[index]:
            return None  # The main process already knows, so no report is needed.
        errors = []
        for dataset in self._datasets:
            try:
                with self._monitor.reading(index):
                    sample = dataset[key]
            except BadVideoError as error:
                errors.append(error.bad.error)
            except UserError as error:
                return UserError(str(error))
            except StopIteration:
                # If it propagated, it would silently end the epoch.
                errors.append("its decoder returned fewer frames than announced (StopIteration)")
            else:
                if errors:
                    reports.append(self._report(index, errors[0], read_by_fallback=True))
                return sample
        reports.append(self._report(index, errors[0]))
        return None

    def _report(self, index: int, error: str, *, read_by_fallback: bool = False) -> BadVideo:
        bad = self._datasets[0].bad_video(index, error)
        return dataclasses.replace(bad, read_by_fallback=read_by_fallback)


def video_index(key: Key) -> int:
    """Return the index of the video of a sample."""
    return key.index if isinstance(key, SampleKey) else key


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples as `default_collate` does, but keep the memory layout of the pixels.

    The values are identical. Permuting uint8 pixels takes several times as long as copying them, so
    it is left to the device, where it is part of the conversion to floats. Samples without a video,
    such as those of a data check, are stacked as they are.
    """
    if "video" not in samples[0]:
        return default_collate(list(samples))
    channels_last = [
        {**sample, "video": sample["video"].movedim(_CHANNEL_DIM, _LAST_DIM)} for sample in samples
    ]
    batch = default_collate(channels_last)
    batch["video"] = batch["video"].movedim(_LAST_DIM, _CHANNEL_DIM)
    return batch


def collate_items(
    items: list[Item], *, collate: Callable[[list[dict[str, Any]]], Any] = collate
) -> Item:
    """Collate the samples of the items (None if there are none), and concatenate the reports.

    A `UserError` among the samples takes the place of the batch.
    """
    reports = [report for _, item_reports in items for report in item_reports]
    samples: list[Any] = []
    for sample, _ in items:
        if isinstance(sample, list):
            samples += sample
        elif sample is not None:
            samples.append(sample)
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    if errors:
        return errors[0], reports
    return (collate(samples) if samples else None), reports


class WorkerExit(NamedTuple):
    """The exit of a worker.

    Attributes:
        video: index of the video that it was reading; -1: none.
        cause: what happened.
        is_crash: whether the process crashed by itself; otherwise a retry may succeed.
    """

    video: int
    cause: str
    is_crash: bool


class WorkerMonitor:
    """Table in shared memory of the worker processes and the video that each is reading.

    It also enforces the timeout of a video. The kernel ends the worker, so this works even if the
    decoder hangs and never returns to Python.

    Args:
        num_workers: number of worker processes; 0: nothing is monitored.
        seconds: timeout of one video; 0: none.
    """

    def __init__(self, *, num_workers: int, seconds: float) -> None:
        self._seconds = seconds
        # [workers, 2]: process id, and index of the video or -1.
        self._reading = torch.full((max(1, num_workers), 2), -1).share_memory_()

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Record that this worker reads video ``index`` inside the block, with the timeout."""
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
        """Return the exits of the workers that are no longer running.

        Call it when a worker may have died; it waits a moment for the system to show the exit.
        """
        workers = [worker for worker in workers if worker.pid is not None]
        exiting = connection.wait([worker.sentinel for worker in workers], timeout=_EXIT_TIMEOUT)
        for worker in workers:
            if worker.sentinel in exiting:
                # The files of a process are closed a moment before it exits.
                worker.join(_EXIT_TIMEOUT)
        videos = {int(pid): int(index) for pid, index in self._reading}
        return [
            WorkerExit(
                video=videos.get(worker.pid or 0, -1),
                cause=self._describe(worker.exitcode),
                is_crash=-worker.exitcode not in _EXTERNAL_SIGNALS,
            )
            for worker in workers
            if worker.exitcode is not None
        ]

    def _describe(self, exitcode: int) -> str:
        if exitcode == -signal.SIGALRM:
            return f"reading it took longer than {self._seconds:g} s (DATA.DECODE_TIMEOUT)"
        return f"the worker reading it {describe_exit(exitcode)}"


def exit_on_alarm() -> None:
    """Let the alarm of `WorkerMonitor.reading` end this process; call it when a worker starts.

    A Python handler inherited from the main process would wait for a hanging decoder.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def ignore_cluster_signals() -> None:
    """Ignore the signals that SLURM sends to stop a job, so only the parent ends this process.

    SLURM signals every process of a job, including the workers of a rank that should finish its
    step. USR1 and USR2 would end a worker or run the handler that it inherited. TERM would also end
    it, but the parent itself uses TERM to end workers, and only ``sigwaitinfo`` tells the sender.
    (If two arrive at the same moment, the system delivers only the first; a parent that is ending
    sends another.)
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # Threads started from here inherit the mask, so the signal is left to the waiting thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_exit_on_term_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_term_from(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)
