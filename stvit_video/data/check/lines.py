"""What is wrong with the lines of CSV files, without looking at the videos."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stvit_video.data.labeled_paths import Entry, parse_lines
from stvit_video.errors import UserError


class Problem(NamedTuple):
    """Something that is wrong with a data set.

    Attributes:
        kind: "line", "duplicate", "overlap", "class" or "video".
        text: a sentence that names the file and the line.
    """

    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Split:
    """The lines of one CSV file.

    Attributes:
        csv_path: the file.
        prefix: folder in front of relative paths.
        entries: lines that are well written.
        repeated: numbers of those lines whose video an earlier line has already.
        problems: what is wrong with its lines.
    """

    csv_path: Path
    prefix: Path
    entries: list[Entry] = field(default_factory=list)
    repeated: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def file(self, entry: Entry) -> str:
        """Path of a line's video, the same for all ways to write it."""
        return os.path.normpath(self.prefix / entry.path)


def read_split(csv_path: Path, *, prefix: Path, separator: str, num_classes: int) -> Split:
    """Read all lines of a CSV file, and collect the mistakes instead of stopping at the first.

    Raises:
        UserError: the file cannot be read.
    """
    split = Split(csv_path, prefix)
    first: dict[str, Entry] = {}
    for entry in parse_lines(csv_path, separator=separator, num_classes=num_classes):
        if isinstance(entry, UserError):
            split.problems.append(Problem("line", str(entry)))
            continue
        split.entries.append(entry)
        earlier = first.setdefault(split.file(entry), entry)
        if earlier is not entry:
            split.repeated.add(entry.line)
            split.problems.append(Problem("duplicate", _describe_repeat(csv_path, entry, earlier)))
    return split


def compare_splits(splits: Mapping[str, Split], *, num_classes: int) -> list[Problem]:
    """Find videos of the training split in other splits, and classes without training videos."""
    problems: list[Problem] = []
    if "train" not in splits:
        return problems
    train = splits["train"]
    training_lines = {train.file(entry): entry.line for entry in train.entries}
    for split in splits.values():
        for entry in split.entries if split is not train else ():
            line = training_lines.get(split.file(entry))
            if line is not None:
                text = f"{entry.path} is a training video too ({train.csv_path}, line {line})"
                problems.append(Problem("overlap", f"{split.csv_path}, line {entry.line}: {text}"))
    missing = sorted(set(range(num_classes)) - {entry.label for entry in train.entries})
    if missing:
        text = f"{train.csv_path}: {len(missing)} of {num_classes} classes have no video"
        problems.append(Problem("class", f"{text}: {_ranges(missing)}"))
    return problems


def _describe_repeat(csv_path: Path, entry: Entry, earlier: Entry) -> str:
    text = f"{csv_path}, line {entry.line}: line {earlier.line} has {entry.path} already"
    if entry.label == earlier.label:
        return text
    return f"{text}, and with label {earlier.label} instead of {entry.label}"


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers briefly: 1, 4-7."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)
