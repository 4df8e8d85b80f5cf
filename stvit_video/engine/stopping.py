"""Ending loops over batches early, when somebody asks for it."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from stvit_video.runtime import distributed

T = TypeVar("T")

ShouldStop = Callable[[], bool]


def never() -> bool:
    """Say that nobody asks for a stop."""
    return False


def agreed(should_stop: ShouldStop) -> ShouldStop:
    """Return a question that all ranks ask together: whether one of them was asked to stop."""
    if should_stop is never:
        return never
    return lambda: distributed.any_rank(should_stop())


def until(batches: Iterable[T], should_stop: ShouldStop) -> Iterator[T]:
    """Yield batches until ``should_stop`` says so; it must go on saying so from then on."""
    for batch in batches:
        if should_stop():
            return
        yield batch
