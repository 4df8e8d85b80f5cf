"""Spawn and end the processes of one machine, and control their memory and threads."""

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

T = TypeVar("T")
R = TypeVar("R")

# How long the other processes may run after one has failed: long enough to report their own errors
# or to exit, short enough for a user who waits for the prompt.
_GRACE_SECONDS = 10.0

# Option of prctl(2).
_PR_SET_PDEATHSIG = 1

# Options of mallopt(3). Blocks above the mmap threshold are mapped one by one. Free memory at the
# top of the heap above the trim threshold is returned to the kernel.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# Maximum number of items in progress at a time in ``map_in_threads``. It bounds the memory on
# machines with many cores.
_MAX_THREADS = 8


class RankError(RuntimeError):
    """A rank failed with an error other than a UserError. The message has its traceback."""


@dataclass(frozen=True)
class _Failure:
    """The failure of a process, which it writes to a file: a queue could block on a long text."""

    index: int
    time: float
    is_user_error: bool
    text: str


def spawn_ranks(
    target: Callable[[int], None], *, num_processes: int, grace_seconds: float = _GRACE_SECONDS
) -> None:
    """Run ``target(index)`` in new processes, with index from 0 to ``num_processes`` - 1.

    If one fails, the others are ended with SIGTERM and then SIGKILL. If this process is killed,
    they are killed too.

    Args:
        target: a picklable callable, that is an importable function or a partial of one.
        num_processes: number of processes.
        grace_seconds: how long the others may run after a failure, and after SIGTERM.

    Raises:
        UserError: a process raised one.
        RankError: a process raised another exception, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="stvit_video-") as folder:
        processes = torch.multiprocessing.start_processes(
            _run_process,
            args=(target, folder, os.getpid()),
            nprocs=num_processes,
            join=False,
            start_method="spawn",
        ).processes
        try:
            statuses = _wait(processes, grace_seconds=grace_seconds)
        finally:
            _terminate(processes, grace_seconds=grace_seconds)
        if any(statuses.values()):
            raise _first_failure(Path(folder), statuses=statuses)


def _run_process(index: int, target: Callable[[int], None], folder: str, parent: int) -> None:
    # PyTorch asks for SIGINT when the parent dies, which a background job ignores.
    die_with_parent(parent)
    try:
        target(index)
    except Exception as error:
        is_user_error = isinstance(error, UserError)
        text = str(error) if is_user_error else traceback.format_exc()
        failure = _Failure(index, time.time(), is_user_error, text)
        (Path(folder) / f"{index}.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")
        _exit_immediately()


def _exit_immediately() -> None:
    """Exit without destroying the process group, which could wait for the other ranks."""
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _wait(processes: Sequence[BaseProcess], *, grace_seconds: float) -> dict[int, int]:
    """Return the exit statuses of the processes that exit before or soon after a failure."""
    statuses: dict[int, int] = {}
    running = {process.sentinel: index for index, process in enumerate(processes)}
    while running:
        timeout = grace_seconds if any(statuses.values()) else None
        ready = connection.wait(list(running), timeout=timeout)
        if not ready:
            break
        for sentinel in ready:
            index = running.pop(sentinel)  # type: ignore[arg-type]
            processes[index].join()
            statuses[index] = processes[index].exitcode or 0
    return statuses


def _terminate(processes: Sequence[BaseProcess], *, grace_seconds: float) -> None:
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in alive:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _first_failure(folder: Path, *, statuses: Mapping[int, int]) -> Exception:
    """Return an error for the cause: a rank that fails breaks the connections of the others."""
    failures = [_Failure(**json.loads(file.read_text("utf-8"))) for file in folder.glob("*.json")]
    failures.sort(key=lambda failure: (not failure.is_user_error, failure.time))
    if failures and failures[0].is_user_error:
        return UserError(failures[0].text)
    reported = {failure.index for failure in failures}
    messages = [
        f"local rank {index} {describe_exit(status)}"
        for index, status in sorted(statuses.items())
        if status and index not in reported
    ]
    if failures:
        messages.append(f"local rank {failures[0].index} raised\n\n{failures[0].text}")
    return RankError("; ".join(messages))


def describe_exit(status: int) -> str:
    """Describe how a process ended, given its exit status in the form of ``multiprocessing``."""
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name
    hint = " (often out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends for any reason.

    A parent that gets SIGKILL cannot end its children itself. This works on Linux only; elsewhere
    it does nothing. The parent is the thread that started this process. Child processes of this
    one are not covered and must call it themselves.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def return_freed_memory() -> bool:
    """Make this process return freed large blocks to the kernel immediately.

    By default glibc raises its mmap threshold with each large block that is freed, and smaller
    blocks stay in a heap that only grows. The memory of a worker that decodes videos of many sizes
    then grows and grows.

    Returns:
        Whether the C library supports it.
    """
    return _set_malloc_thresholds(mmap=1 << 20, trim=1 << 20)


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for its next tensors.

    By default glibc returns large blocks to the kernel immediately, and the next pass of a model
    has page faults for all of them: a sixth of the time of a Video Swin on the CPU. CUDA memory has
    PyTorch's own allocator, which keeps it anyway.

    Returns:
        Whether the C library supports it.
    """
    return _set_malloc_thresholds(mmap=1 << 30, trim=(1 << 31) - 1)


def trim_memory() -> None:
    """Return free memory to the kernel, so the size of the process shows what it uses."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _set_malloc_thresholds(*, mmap: int, trim: int) -> bool:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    results = libc.mallopt(_M_MMAP_THRESHOLD, mmap), libc.mallopt(_M_TRIM_THRESHOLD, trim)
    return all(results)


def map_in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply ``function`` to all items on the CPU, one thread per item, several items at a time.

    When PyTorch splits a sum among threads, its last digits depend on their number: from 2 threads
    on in oneDNN's 1 x 1 convolutions, from 3 on in MKL's matrix products. Here a result depends
    only on its item, however many threads and ranks share the cores.

    Args:
        function: must be thread-safe, and must set gradients and autocast itself, because PyTorch
            keeps these settings per thread.
        items: consumed in order, only a few before they are needed.

    Returns:
        The results in the order of the items.
    """
    threads = torch.get_num_threads()
    max_workers = min(threads, _MAX_THREADS)
    results: list[R] = []
    pending: deque[Future[R]] = deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers) as pool:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > max_workers:
                    results.append(pending.popleft().result())
            results += [future.result() for future in pending]
    finally:
        torch.set_num_threads(threads)
    return results
