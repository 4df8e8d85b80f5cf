"""A data loader that goes on when videos cannot be read, and when reading one kills a worker."""

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
from stvit_video.data.samplers import Draw
from stvit_video.data.workers import (
    FaultTolerantDataset,
    Item,
    Videos,
    WorkerExit,
    WorkerMonitor,
    collate,
    collate_items,
    exit_on_alarm,
    leave_stopping_to_parent,
)
from stvit_video.errors import TransientError, UserError
from stvit_video.runtime.logging import get_logger
from stvit_video.runtime.process import die_with_parent, return_freed_memory

# The workers of a rank that was started by "spawn" would be started so as well, and each import
# everything anew. Forking is not safe on macOS.
_Context: type[ForkContext] | type[SpawnContext] = (
    ForkContext if sys.platform == "linux" else SpawnContext
)

# In an epoch: more of them are no accident.
_MOST_IDLE_DEATHS = 3

_log = get_logger(__name__)


class VideoLoader:
    """Batches of a data set of dicts; ``batch_sampler`` says which.

    Videos are decoded in ``num_workers`` processes, which live as long as the loader; each uses
    one thread. What cannot be read goes to ``bad_video_log``, and is left out of its batch or
    replaced by another sample. When a worker crashes, the video that it was reading is bad too, and
    new workers go on from the batch that was due; all batches are the same as if the video had been
    bad in any other way. A worker that takes too long, or is killed from outside, as for a lack of
    memory, may be no fault of the video, which is bad when that happens twice in an epoch. (With no
    workers, nothing helps against a decoder that crashes or hangs. A worker that is stopped, by
    SIGSTOP, is waited for.)

    Args:
        dataset: map-style, of dicts of tensors, numbers and strings, or of lists of them: an item
            may be several samples of the batch.
        batch_sampler: lists of what the data set is indexed with.
        num_workers: processes; 0: videos are decoded in this process.
        pin_memory: copy batches to page-locked memory, for a GPU.
        quarantine: takes up the videos that cannot be read, and says when there are too many.
        second_try: the same data set over another decoder, for what the first one cannot read.
        replace: gives the sample that takes the place of a bad one at the n-th try; None: bad
            ones are left out, and a batch of bad ones alone too.
        seconds_per_video: limit of the time for one video; 0: none.
        collate: makes a batch of samples.
    """

    def __init__(
        self,
        dataset: Videos,
        *,
        batch_sampler: Sampler[Any],
        num_workers: int,
        pin_memory: bool,
        bad_video_log: BadVideoLog,
        second_try: Videos | None = None,
        replace: Callable[[Draw, int], Draw] | None = None,
        seconds_per_video: float = 0.0,
        collate: Callable[[list[dict[str, Any]]], Any] = collate,
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.bad_video_log = bad_video_log
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._collate = partial(collate_items, collate=collate)
        self._watch = WorkerMonitor(num_workers=num_workers, seconds=seconds_per_video)
        self._guarded = FaultTolerantDataset(
            [dataset] if second_try is None else [dataset, second_try],
            replace=replace,
            max_bad=bad_video_log.max_bad,
            watch=self._watch,
        )
        self._remaining = _RemainingBatches(batch_sampler)
        self._loader: DataLoader[Any] | None = None
        # Of this epoch: videos whose reading was ended once by what may have nothing to do with
        # them, and ends of workers that read none.
        self._suspects: set[int] = set()
        self._idle_deaths = 0
        # Noted as they are made: one may have died before the loader has started them all.
        self._workers: list[BaseProcess] = []

    def __len__(self) -> int:
        """Batches of an epoch; where bad videos are left out, fewer may come."""
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over an epoch; the workers start at once, not with the first batch.

        Raises:
            UserError: there are more bad videos than the quarantine puts up with.
            TransientError: workers are killed again and again while they read no video.
        """
        self._suspects.clear()
        self._idle_deaths = 0
        return self._batches(self._start(first_batch=0))

    def _batches(self, items: Iterator[Item]) -> Iterator[Any]:
        due = 0
        while True:
            try:
                batch, reports = next(items)
            except StopIteration:
                return
            except Exception as error:
                self._take_up_deaths(error)
            else:
                due += 1
                self._take_up(batch, reports)
                if batch is not None:
                    yield batch
                continue
            # Only here, where the error and with it the old iterator are gone, can new ones start.
            del items
            items = self._start(first_batch=due)

    def _start(self, *, first_batch: int) -> Iterator[Item]:
        self._remaining.first_batch = first_batch
        while True:
            try:
                return self._iterate()
            except Exception as error:
                # Workers that go on from an epoch that was left early may have died meanwhile.
                self._take_up_deaths(error)

    def _iterate(self) -> Iterator[Item]:
        # Also those that other ranks have met, which workers that live on learn of by this.
        self._guarded.crashes_worker[list(self.bad_video_log.crashing)] = True
        if self._loader is not None:
            return iter(self._loader)
        self._loader = DataLoader(
            self._guarded,
            batch_sampler=self._remaining,
            num_workers=self._num_workers,
            multiprocessing_context=_noting_context(self._workers) if self._num_workers else None,
            pin_memory=self._pin_memory,
            collate_fn=self._collate,
            worker_init_fn=partial(_prepare_worker, parent=os.getpid()),
            persistent_workers=self._num_workers > 0,
            # Of its own: the seed of the workers, drawn when they start, must not move the global
            # stream, which a resumed run takes up where it was.
            generator=torch.Generator(),
        )
        with _own_child_handler():
            return iter(self._loader)

    def _take_up(self, batch: Any, reports: list[BadVideo]) -> None:
        try:
            self.bad_video_log.add(reports)
            if isinstance(batch, UserError):
                raise batch
        except UserError:
            self._end_workers()  # the run is over, and must not wait for what they read ahead
            raise

    def _take_up_deaths(self, error: Exception) -> None:
        """Blame the videos that dead workers were reading, and end the other workers.

        A video that may not be to blame gets a second chance.

        Raises:
            Exception: it is ``error``, as no worker died.
            UserError: a worker crashed without reading a video, or there are too many bad ones now.
            TransientError: so often in this epoch workers that read no video were killed.
        """
        exits = self._watch.exits(self._workers) if self._workers else []
        if not exits:
            raise error
        self._end_workers()
        # Several workers may have read one video, which is to blame once; for a crash if any did.
        for death in {
            each.video: each for each in sorted(exits, key=attrgetter("is_crash"))
        }.values():
            if death.video < 0:
                self._take_up_idle_death(death, error)
            else:
                self._blame(death)
        _log.warning("New workers of the data loader go on from the batch that was due")

    def _take_up_idle_death(self, death: WorkerExit, error: Exception) -> None:
        self._idle_deaths += 1
        sentence = (
            f"a worker of the data loader died between two videos ({death.cause}); with too little "
            "memory, lower DATA_LOADER.NUM_WORKERS or the batch size"
        )
        if death.is_crash:
            raise UserError(sentence) from error
        if self._idle_deaths > _MOST_IDLE_DEATHS:
            raise TransientError(f"{self._idle_deaths} times {sentence}") from error
        _log.warning("%s", sentence)

    def _blame(self, death: WorkerExit) -> None:
        assert not self._guarded.crashes_worker[death.video], "a killer was opened again"
        bad = self.dataset.bad_video(death.video, death.cause, crashes_worker=True)
        if death.is_crash or death.video in self._suspects:
            self.bad_video_log.add([bad])
        else:
            self._suspects.add(death.video)
            _log.warning("%s: %s; it is tried once more", bad.path, bad.error)

    def _end_workers(self) -> None:
        for worker in self._workers:
            if worker.pid is not None:  # it was started
                worker.kill()
        self._loader, self._workers = None, []


class _RemainingBatches(Sampler[Any]):
    """The batches of a sampler from ``first_batch`` on."""

    def __init__(self, batch_sampler: Sampler[Any]) -> None:
        self.first_batch = 0
        self._batch_sampler = batch_sampler

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._batch_sampler, self.first_batch, None)


def _noting_context(processes: list[BaseProcess]) -> ForkContext | SpawnContext:
    """Give a context for a loader that notes the processes that it makes."""
    context = _Context()

    def make(*args: Any, **kwargs: Any) -> BaseProcess:
        process = _Context.Process(*args, **kwargs)
        processes.append(process)
        return process

    vars(context)["Process"] = make
    return context


def _prepare_worker(worker: int, *, parent: int) -> None:
    die_with_parent(parent)
    # Garbage of the main process came along. Collected here, a decoder among it would wait for
    # ever for its threads, which did not.
    gc.freeze()
    torch.set_num_threads(1)
    return_freed_memory()
    exit_on_alarm()
    leave_stopping_to_parent()


@contextmanager
def _own_child_handler() -> Iterator[None]:
    """Take back the handler that PyTorch sets for SIGCHLD while the block runs.

    When a worker dies it raises in whatever the main thread is doing, be it a training step.
    Without it the death is noticed when the next batch is waited for, within five seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        theirs = getattr(before, "__module__", "").startswith("torch.utils.data")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if theirs or before is None else before)
