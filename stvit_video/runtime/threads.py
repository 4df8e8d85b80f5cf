"""Work on several items at the same time, in threads that compute each by itself."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

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
