"""Check a data set of CSV files: every line, every video; write a cleaned copy."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stvit_video.data.bad_videos import BadVideo, write_bad_videos
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.check.videos import check_videos, draw_statistics, summarize
from stvit_video.data.labeled_paths import Entry, LabeledPaths, parse_lines
from stvit_video.data.labeled_videos import LabeledVideos
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


# Problems of one kind that the report names; the file problems.txt has all.
_NAMED = 5


@dataclass(frozen=True)
class DataCheck:
    """How a data set is checked.

    Attributes:
        csv_files: by the name of the split; of "train" and others, overlaps are looked for.
        prefix: folder in front of relative paths; empty: that of the CSV file.
        separator: between path and label.
        num_classes: labels must be below it.
        backend: decoder of the runs.
        every_frame: decode all frames, instead of the first, the middle and the last.
        num_workers: processes that decode, at least 1, so that none takes the program with it.
        seconds_per_video: limit of the time for one video; 0: none.
        output: folder of what is written.
    """

    csv_files: Mapping[str, Path]
    prefix: str
    separator: str
    num_classes: int
    backend: str
    every_frame: bool
    num_workers: int
    seconds_per_video: float
    output: Path

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the journal, the lists, the table and the picture.

        Stopped and started again, it goes on where it was.

        Returns:
            all problems, and a report to be shown.

        Raises:
            UserError: a CSV file cannot be read, or none of its first videos exists.
        """
        splits = {name: self._read(path) for name, path in self.csv_files.items()}
        problems = [problem for split in splits.values() for problem in split.problems]
        problems += compare_splits(splits, num_classes=self.num_classes)
        facts = {}
        bad: list[BadVideo] = []
        way = f"{self.backend}, {'every frame' if self.every_frame else 'three frames'}"
        with closing(Journal(self.output / "journal.jsonl", way=way)) as journal:
            for name, split in splits.items():
                facts[name], bad_here = self._decode(name, split, journal)
                bad += bad_here
                self._write_clean(name, split, bad_here)
        problems += [Problem("video", str(video)) for video in bad]
        write_bad_videos(self.output / "quarantine.csv", bad)
        report = self._write_report(splits, facts, problems)
        return problems, report

    def _read(self, path: Path) -> Split:
        split = read_split(
            path,
            prefix=Path(self.prefix) if self.prefix else path.parent,
            separator=self.separator,
            num_classes=self.num_classes,
        )
        if not split.entries:
            lines = "".join(f"; {problem.text}" for problem in split.problems[:1])
            raise UserError(f"{path} has no line that names a video and its label{lines}")
        return split

    def _decode(
        self, name: str, split: Split, journal: Journal
    ) -> tuple[list[VideoFacts], list[BadVideo]]:
        paths = LabeledPaths(split.csv_path, split.entries)
        videos = LabeledVideos(paths, prefix=split.prefix, backend=self.backend)
        facts = check_videos(
            videos,
            journal=journal,
            every_frame=self.every_frame,
            num_workers=self.num_workers,
            seconds_per_video=self.seconds_per_video,
            title=name,
        )
        bad = [
            videos.bad_video(index, video.error, crashes_worker=video.crashes_worker)
            for index, video in enumerate(facts)
            if video.error
        ]
        return facts, bad

    def _write_clean(self, name: str, split: Split, bad: Sequence[BadVideo]) -> None:
        left_out = split.repeated | {video.line for video in bad}
        lines = [
            f"{entry.path}{self.separator}{entry.label}\n"
            for entry in split.entries
            if entry.line not in left_out
        ]
        path = self.output / f"{name}.clean.csv"
        path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")

    def _write_report(
        self,
        splits: Mapping[str, Split],
        facts: Mapping[str, Sequence[VideoFacts]],
        problems: Sequence[Problem],
    ) -> str:
        labels = {name: [entry.label for entry in split.entries] for name, split in splits.items()}
        table = summarize(facts, labels)
        table.to_csv(self.output / "statistics.csv")
        draw_statistics(self.output / "statistics.png", facts, labels)
        return f"{table.to_string()}\n\n{write_problems(self.output, problems)}"


def write_problems(output: Path, problems: Sequence[Problem]) -> str:
    """Write all problems to problems.txt; returns the first of each kind, and their number."""
    text = "".join(f"{problem.text}\n" for problem in problems)
    (output / "problems.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    if not problems:
        return "No problems were found."
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        lines.append(f"{count} of kind {kind}:")
        texts = [problem.text for problem in problems if problem.kind == kind]
        lines += [f"  {text}" for text in texts[:_NAMED]]
        lines += [f"  ... and {count - _NAMED} more"] * (count > _NAMED)
    return "\n".join(lines)
