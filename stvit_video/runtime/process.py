"""Processes of one machine: how they start and end, their memory, and their threads."""

import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch
import torch.multiprocessing

from stvit_video.errors import UserError

# prctl(2).
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends, in whatever way that ends.

    A parent that gets SIGKILL cannot end its children any more, so the kernel does it. Linux alone
    can; elsewhere nothing happens. What counts as the parent is the thread that started this
    process. Processes that this one starts must ask for it themselves.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


# How long the others may go on after one has failed: long enough to report an error of their
# own or to end by themselves, short enough for someone who waits for the prompt.
_GRACE_SECONDS = 10.0


class RankError(RuntimeError):
    """A rank failed by no fault of the user's; the message holds the traceback of that rank."""


@dataclass(frozen=True)
class _Report:
    """What a process leaves in a file when it fails; a queue could block on a long traceback."""

    index: int
    when: float
    is_user_error: bool
    text: str


def spawn_ranks(
    target: Callable[[int], None], *, num_processes: int, grace_seconds: float = _GRACE_SECONDS
) -> None:
    """Run ``target(index)`` in fresh processes, index from 0 to ``num_processes`` - 1.

    When one fails the others are stopped, first by SIGTERM and then by SIGKILL. When this process
    is killed they are too.

    Args:
        target: a picklable callable, that is an importable function or a partial of one.
        num_processes: number of processes.
        grace_seconds: how long the others may go on after a failure, and after SIGTERM.

    Raises:
        UserError: a process raised one.
        RankError: a process raised anything else, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="stvit_video-") as folder:
        processes = torch.multiprocessing.start_processes(
            _run,
            args=(target, folder, os.getpid()),
            nprocs=num_processes,
            join=False,
            start_method="spawn",
        ).processes
        try:
            statuses = _wait(processes, grace_seconds=grace_seconds)
        finally:
            _stop(processes, grace_seconds=grace_seconds)
        if any(statuses.values()):
            raise _cause(Path(folder), statuses=statuses)


def _run(index: int, target: Callable[[int], None], folder: str, parent: int) -> None:
    # PyTorch has asked for SIGINT instead, which a job in the background ignores.
    die_with_parent(parent)
    try:
        target(index)
    except Exception as error:
        is_user_error = isinstance(error, UserError)
        text = str(error) if is_user_error else traceback.format_exc()
        report = _Report(index, time.time(), is_user_error, text)
        (Path(folder) / f"{index}.json").write_text(json.dumps(asdict(report)), encoding="utf-8")
        _leave_at_once()


def _leave_at_once() -> None:
    """End this process without taking its process group down, which could wait for the others."""
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _wait(processes: Sequence[BaseProcess], *, grace_seconds: float) -> dict[int, int]:
    """Return the exit status of each process that ended by itself, before or soon after others."""
    statuses: dict[int, int] = {}
    running = {process.sentinel: index for index, process in enumerate(processes)}
    while running:
        patience = grace_seconds if any(statuses.values()) else None
        ready = connection.wait(list(running), timeout=patience)
        if not ready:
            break
        for sentinel in ready:
            index = running.pop(sentinel)  # type: ignore[arg-type]
            processes[index].join()
            statuses[index] = processes[index].exitcode or 0
    return statuses


def _stop(processes: Sequence[BaseProcess], *, grace_seconds: float) -> None:
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in alive:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _cause(folder: Path, *, statuses: Mapping[int, int]) -> Exception:
    """Tell the cause from its consequences: a rank that fails breaks the connections of others."""
    reports = [_Report(**json.loads(file.read_text("utf-8"))) for file in folder.glob("*.json")]
    reports.sort(key=lambda report: (not report.is_user_error, report.when))
    if reports and reports[0].is_user_error:
        return UserError(reports[0].text)
    reported = {report.index for report in reports}
    silent = [
        f"local rank {index} {describe_exit(status)}"
        for index, status in sorted(statuses.items())
        if status and index not in reported
    ]
    told = [f"local rank {report.index} raised\n\n{report.text}" for report in reports[:1]]
    return RankError("; ".join([*silent, *told]))


def describe_exit(status: int) -> str:
    """Say how a process ended, by its exit status as ``multiprocessing`` gives it."""
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    hint = " (often a lack of memory)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


# mallopt(3): blocks above the one size are mapped one by one, and a top of the heap above the
# other is given back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL, _LARGE, _LARGEST = 1 << 20, 1 << 30, (1 << 31) - 1


def return_freed_memory() -> bool:
    """Let this process give back at once what it frees in large blocks.

    By default glibc raises its limit of "large" with every block that is freed, and what lies
    below stays in a heap that only grows: a worker that decodes videos of many sizes then takes
    up more and more.

    Returns:
        Whether the C library is one that can be told.
    """
    return _set_limits(_SMALL, _SMALL)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors.

    By default glibc gives large blocks back to the kernel at once, and the next pass of a model
    faults them in again, page by page: a sixth of the time of a Video Swin on the CPU. A CUDA
    device's memory has an allocator of torch's own, which keeps it anyway.

    Returns:
        Whether the C library is one that can be told.
    """
    return _set_limits(_LARGE, _LARGEST)


def trim_memory() -> None:
    """Give the kernel back what is free now, so that the process' size shows what it uses."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _set_limits(mapped: int, trimmed: int) -> bool:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    is_told = libc.mallopt(_M_MMAP_THRESHOLD, mapped), libc.mallopt(_M_TRIM_THRESHOLD, trimmed)
    return all(is_told)


T = TypeVar("T")
R = TypeVar("R")

# Items in work at a time, to bound the memory on machines of many cores.
_MOST = 8


def map_by_single_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply ``function`` to all items on the CPU, each in one thread, several at a time.

    A sum that torch splits among threads differs in its last digits with their number: oneDNN's
    1 x 1 convolutions do so from 2 threads on, MKL's matrix products from 3 on. Here a result
    depends on its item alone, however many threads and ranks share the cores.

    Args:
        function: safe in threads; gradients and autocast are to be switched inside of it, as
            torch keeps these settings for each thread.
        items: taken one after the other, only a few before they are needed.

    Returns:
        the results in the order of the items.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, _MOST)
    results: list[R] = []
    pending: deque[Future[R]] = deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > at_once:
                    results.append(pending.popleft().result())
            results += [each.result() for each in pending]
    finally:
        torch.set_num_threads(threads)
    return results
