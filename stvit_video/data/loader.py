"""Data loader that tolerates unreadable videos and crashes of its workers."""

import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from operator import attrgetter
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from stvit_video.data.bad_videos import BadVideo, BadVideoLog
from stvit_video.data.samplers import SampleKey
from stvit_video.data.workers import (
    FaultTolerantDataset,
    Item,
    VideoSource,
    WorkerExit,
    WorkerMonitor,
    collate,
    collate_items,
    exit_on_alarm,
    ignore_cluster_signals,
)
from stvit_video.errors import TransientError, UserError
from stvit_video.runtime.logging import get_logger
from stvit_video.runtime.process import die_with_parent, return_freed_memory

# By default, the workers of a rank that was spawned would be spawned too, and each would import
# everything again. Forking is not safe on macOS.
_Context: type[ForkContext] | type[SpawnContext] = (
    ForkContext if sys.platform == "linux" else SpawnContext
)

# Idle workers killed per epoch that are tolerated; more are unlikely to be an accident.
_MAX_IDLE_EXITS = 3

_log = get_logger(__name__)


class VideoLoader:
    """Load batches of a data set of dicts in the order of a batch sampler.

    Videos are decoded in ``num_workers`` processes that live as long as the loader and use one
    thread each. A video that cannot be read is added to ``bad_video_log``, and left out of its
    batch or replaced by another sample.

    When a worker crashes, the video that it was reading is bad too. The workers are restarted at
    the batch that was due, and all batches are the same as if the video had been bad in any other
    way. A timeout, or a worker killed from outside, such as for a lack of memory, may not be the
    fault of the video, which is bad only if it happens twice in an epoch.

    Without workers, nothing protects against a decoder that crashes or hangs. The loader waits for
    a worker that is stopped by SIGSTOP.

    Args:
        dataset: map-style data set of dicts of tensors, numbers and strings, or of lists of such
            dicts: an item may be several samples of the batch.
        batch_sampler: yields lists of keys of the data set.
        num_workers: number of worker processes; 0: videos are decoded in this process.
        pin_memory: copy batches to page-locked memory, for a GPU.
        bad_video_log: collects the videos that cannot be read, and raises if there are too many.
        fallback: the same data set with another decoder, to retry videos that cannot be read.
        replace: returns the sample that replaces a bad one at the n-th attempt; None: bad samples
            are left out, as are batches with only bad samples.
        seconds_per_video: timeout of one video; 0: none.
        collate: makes a batch of samples.
    """

    def __init__(
        self,
        dataset: VideoSource,
        *,
        batch_sampler: Sampler[Any],
        num_workers: int,
        pin_memory: bool,
        bad_video_log: BadVideoLog,
        fallback: VideoSource | None = None,
        replace: Callable[[SampleKey, int], SampleKey] | None = None,
        seconds_per_video: float = 0.0,
        collate: Callable[[list[dict[str, Any]]], Any] = collate,
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.bad_video_log = bad_video_log
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._collate = partial(collate_items, collate=collate)
        self._monitor = WorkerMonitor(num_workers=num_workers, seconds=seconds_per_video)
        self._fault_tolerant = FaultTolerantDataset(
            [dataset] if fallback is None else [dataset, fallback],
            replace=replace,
            max_bad=bad_video_log.max_bad,
            monitor=self._monitor,
        )
        self._remaining = _RemainingBatches(batch_sampler)
        self._loader: DataLoader[Any] | None = None
        # The worker processes, recorded as they are created: one may die before the loader has
        # started them all.
        self._workers: list[BaseProcess] = []
        # Videos in this epoch whose worker was once killed from outside or timed out.
        self._suspects: set[int] = set()
        self._num_idle_exits = 0

    def __len__(self) -> int:
        """Number of batches of an epoch; fewer may come if bad videos are left out."""
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over an epoch; the workers start immediately, not with the first batch.

        Raises:
            UserError: there are too many bad videos, or a worker crashed while it read none.
            TransientError: workers were repeatedly killed while they read no video.
        """
        self._suspects.clear()
        self._num_idle_exits = 0
        return self._iterate(self._start(first_batch=0))

    def _iterate(self, items: Iterator[Item]) -> Iterator[Any]:
        num_read = 0
        while True:
            try:
                batch, reports = next(items)
            except StopIteration:
                return
            except Exception as error:
                self._handle_exits(error)
            else:
                num_read += 1
                self._check(batch, reports)
                if batch is not None:
                    yield batch
                continue
            # Restart only after the except block, which keeps the old iterator alive.
            del items
            items = self._start(first_batch=num_read)

    def _start(self, *, first_batch: int) -> Iterator[Item]:
        self._remaining.first_batch = first_batch
        while True:
            try:
                return self._make_iterator()
            except Exception as error:
                # Workers still busy with an abandoned epoch may have died in the meantime.
                self._handle_exits(error)

    def _make_iterator(self) -> Iterator[Item]:
        # Includes videos that crashed workers of other ranks; persistent workers see the update.
        self._fault_tolerant.crashes_worker[list(self.bad_video_log.crashing)] = True
        if self._loader is not None:
            return iter(self._loader)
        self._loader = DataLoader(
            self._fault_tolerant,
            batch_sampler=self._remaining,
            num_workers=self._num_workers,
            multiprocessing_context=_recording_context(self._workers)
            if self._num_workers
            else None,
            pin_memory=self._pin_memory,
            collate_fn=self._collate,
            worker_init_fn=partial(_init_worker, parent=os.getpid()),
            persistent_workers=self._num_workers > 0,
            # Drawing the workers' seed must not advance the global generator, whose state a
            # resumed run restores.
            generator=torch.Generator(),
        )
        with _keep_sigchld_handler():
            return iter(self._loader)

    def _check(self, batch: Any, reports: list[BadVideo]) -> None:
        """Log the reports of a batch, and raise if it is an error or there are too many."""
        try:
            self.bad_video_log.add(reports)
            if isinstance(batch, UserError):
                raise batch
        except UserError:
            # Do not wait for the batches that the workers are prefetching.
            self._kill_workers()
            raise

    def _handle_exits(self, error: Exception) -> None:
        """Handle the exits of workers that caused an error, and kill the remaining workers.

        Raises:
            Exception: ``error`` itself, if no worker has exited.
            UserError: a worker crashed while it read no video, or there are too many bad videos.
            TransientError: too many workers that read no video were killed in this epoch.
        """
        exits = self._monitor.exits(self._workers) if self._workers else []
        if not exits:
            raise error
        self._kill_workers()
        # Several workers may have read the same video. It counts once, as a crash if any crashed.
        by_video = {each.video: each for each in sorted(exits, key=attrgetter("is_crash"))}
        for worker_exit in by_video.values():
            if worker_exit.video < 0:
                self._handle_idle_exit(worker_exit, error)
            else:
                self._handle_reading_exit(worker_exit)
        _log.warning("Restarting the workers of the data loader at the batch that was due")

    def _handle_idle_exit(self, worker_exit: WorkerExit, error: Exception) -> None:
        self._num_idle_exits += 1
        message = (
            f"a worker of the data loader died between two videos ({worker_exit.cause}); if memory "
            "ran out, lower DATA_LOADER.NUM_WORKERS or the batch size"
        )
        if worker_exit.is_crash:
            raise UserError(message) from error
        if self._num_idle_exits > _MAX_IDLE_EXITS:
            raise TransientError(f"{self._num_idle_exits} times {message}") from error
        _log.warning("%s", message)

    def _handle_reading_exit(self, worker_exit: WorkerExit) -> None:
        index = worker_exit.video
        assert not self._fault_tolerant.crashes_worker[index], "a crashing video was opened again"
        bad = self.dataset.bad_video(index, worker_exit.cause, crashes_worker=True)
        if worker_exit.is_crash or index in self._suspects:
            self.bad_video_log.add([bad])
        else:
            self._suspects.add(index)
            _log.warning("%s: %s; it is retried once", bad.path, bad.error)

    def _kill_workers(self) -> None:
        for worker in self._workers:
            if worker.pid is not None:  # It has been started.
                worker.kill()
        self._loader, self._workers = None, []


class _RemainingBatches(Sampler[Any]):
    """The batches of a sampler from ``first_batch`` on."""

    def __init__(self, batch_sampler: Sampler[Any]) -> None:
        self.first_batch = 0
        self._batch_sampler = batch_sampler

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._batch_sampler, self.first_batch, None)


def _recording_context(processes: list[BaseProcess]) -> ForkContext | SpawnContext:
    """Return a multiprocessing context that appends the processes it creates to a list."""
    context = _Context()

    def make_process(*args: Any, **kwargs: Any) -> BaseProcess:
        process = _Context.Process(*args, **kwargs)
        processes.append(process)
        return process

    vars(context)["Process"] = make_process
    return context


def _init_worker(worker: int, *, parent: int) -> None:
    die_with_parent(parent)
    # A forked worker inherits the garbage of the main process. Collecting a decoder there would
    # wait forever for its threads, which are not inherited.
    gc.freeze()
    torch.set_num_threads(1)
    return_freed_memory()
    exit_on_alarm()
    ignore_cluster_signals()


@contextmanager
def _keep_sigchld_handler() -> Iterator[None]:
    """Restore the SIGCHLD handler after the block, in which PyTorch installs its own.

    PyTorch's handler raises when a worker dies, wherever the main thread is, even in a training
    step. Without it, the death is noticed within five seconds when waiting for the next batch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        is_pytorchs = getattr(previous, "__module__", "").startswith("torch.utils.data")
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL if is_pytorchs or previous is None else previous
        )
