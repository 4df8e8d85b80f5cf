"""A list of Python objects in one block of bytes."""

import pickle
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

T = TypeVar("T")


class PackedList(Sequence[T], Generic[T]):
    """A list that is read only, and that worker processes share.

    As Python objects, the objects of COCO's 118,000 images would be copied into every worker
    process one by one, as their reference counts change.

    Args:
        items: picklable.
    """

    def __init__(self, items: Iterable[T]) -> None:
        pickled = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)
        self._ends = np.cumsum([len(each) for each in pickled], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        assert isinstance(index, int), "one item at a time"
        begin = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[begin : self._ends[index]].tobytes())
