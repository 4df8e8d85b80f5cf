"""Read CSV files of labeled videos, one ``path label`` per line, into compact memory."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stvit_video.errors import UserError


class Entry(NamedTuple):
    """A line of a CSV file."""

    line: int
    path: str
    label: int


class LabeledPaths(Sequence[tuple[str, int]]):
    """The (path, label) pairs of a CSV file, and the line of each.

    All paths are stored in a single byte array. As Python objects, the 240,000 paths of
    Kinetics-400 would be copied into every worker process, because reading them changes their
    reference counts.

    Args:
        csv_path: the CSV file, for messages.
        entries: its entries.
        unit: noun for an entry, for messages.
        items: plural noun for the files, for messages.
    """

    def __init__(
        self,
        csv_path: Path,
        entries: Sequence[Entry],
        *,
        unit: str = "line",
        items: str = "videos",
    ) -> None:
        self.csv_path = csv_path
        self.items = items
        self._unit = unit
        encoded = [_encode(path) for _, path, _ in entries]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._lines = np.array([line for line, _, _ in entries], np.int32)
        self._labels = np.array([label for _, _, label in entries], np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[str, int]:  # type: ignore[override]
        begin = self._ends[index - 1] if index else 0
        path = self._bytes[begin : self._ends[index]].tobytes()
        return path.decode("utf-8", "surrogateescape"), int(self._labels[index])

    def line(self, index: int) -> int:
        """Return the line of an entry in the CSV file, from 1."""
        return int(self._lines[index])

    def location(self, index: int) -> str:
        """Return the file and line of an entry, for messages: ``data/train.csv, line 7``."""
        return f"{self.csv_path}, {self._unit} {self.line(index)}"

    def index_of(self, path: str, *, line: int) -> int | None:
        """Return the index of the entry on a line, or None if the line has no or another path."""
        index = int(np.searchsorted(self._lines, line))
        found = index < len(self) and self.line(index) == line and self[index][0] == path
        return index if found else None

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the entries in order.

        ``sha256sum`` prints the same for a file with the lines "path<tab>label" in this order.
        """
        digest = hashlib.sha256()
        for path, label in self:
            digest.update(_encode(path) + b"\t%d\n" % label)
        return digest.hexdigest()[:16]


def read_labeled_paths(csv_path: str | Path, *, separator: str, num_classes: int) -> LabeledPaths:
    """Read a CSV file; the label follows the last separator, so paths may contain spaces.

    Raises:
        UserError: the file is missing or empty, or a line has no integer label in
            ``[0, num_classes)``; the message names the line.
    """
    csv_path = Path(csv_path)
    entries = []
    for entry in parse_lines(csv_path, separator=separator, num_classes=num_classes):
        if isinstance(entry, UserError):
            raise entry
        entries.append(entry)
    if not entries:
        raise UserError(f'{csv_path} lists no videos: each line must be "path{separator}label"')
    return LabeledPaths(csv_path, entries)


def parse_lines(csv_path: Path, *, separator: str, num_classes: int) -> Iterator[Entry | UserError]:
    """Parse a CSV file line by line, yielding an entry, or an error for an invalid line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = csv_path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {csv_path}: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _parse_line(line.strip(), number, csv_path, separator, num_classes)
        except UserError as error:
            yield error


def _parse_line(line: str, number: int, csv_path: Path, separator: str, num_classes: int) -> Entry:
    path, found, text = line.rpartition(separator)
    location = f"{csv_path}, line {number}"
    if not found or not path.strip():
        raise UserError(f'{location}: a line must be "path{separator}label", not "{line}"')
    try:
        label = int(text)
    except ValueError:
        raise UserError(f'{location}: the label must be an integer, not "{text}"') from None
    if not 0 <= label < num_classes:
        raise UserError(
            f"{location}: the label must lie in 0..{num_classes - 1} (MODEL.NUM_CLASSES is "
            f"{num_classes}), but it is {label}"
        )
    return Entry(number, path.strip(), label)


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
