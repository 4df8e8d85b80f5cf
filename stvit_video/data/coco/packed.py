"""A list of plain Python values in one block of bytes."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class PackedList(Sequence[Any]):
    """A list that is read only, and that processes share.

    As Python objects, the objects of COCO's 118,000 images would be copied into every worker
    process one by one, as their reference counts change. The bytes may also lie in a file that is
    mapped into memory, which then is there once for all processes of a machine.

    Args:
        text: all items as JSON, one behind the other.
        ends: where each of them ends, int64.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, items: Iterable[Any]) -> "PackedList":
        """Pack items of which JSON keeps everything: numbers, text, lists, dicts, None."""
        text, ends = bytearray(), []
        for item in items:
            text += json.dumps(item, separators=(",", ":")).encode("ascii")
            ends.append(len(text))
        return cls(np.frombuffer(text, np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        assert isinstance(index, int), "one item at a time"
        begin = self.ends[index - 1] if index else 0
        return json.loads(self.text[begin : self.ends[index]].tobytes())
