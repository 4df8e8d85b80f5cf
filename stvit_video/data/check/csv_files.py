"""Check a data set of CSV files: every line and every video; write a clean copy and statistics."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.check.journal import VideoFacts
from stvit_video.data.check.videos import DatasetCheck, Problem, bad_videos
from stvit_video.data.labeled_paths import Entry, LabeledPaths, parse_lines
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.errors import UserError

# Values of a quantity in the statistics, the most common first.
_MAX_COMMON = 3
_BINS = 40
_DPI = 130


@dataclass(frozen=True, eq=False)
class Split:
    """The lines of one CSV file.

    Attributes:
        csv_path: the file.
        prefix: folder of relative paths.
        entries: valid lines.
        duplicates: numbers of the lines whose video is already on an earlier line.
        problems: of the lines.
    """

    csv_path: Path
    prefix: Path
    entries: list[Entry] = field(default_factory=list)
    duplicates: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def file(self, entry: Entry) -> str:
        """Return the normalized path of a line's video."""
        return os.path.normpath(self.prefix / entry.path)

    @property
    def labels(self) -> list[int]:
        """Labels of the valid lines."""
        return [entry.label for entry in self.entries]


@dataclass(frozen=True, kw_only=True)
class CsvCheck(DatasetCheck):
    """A check of a data set of CSV files.

    Attributes:
        csv_files: by the name of the split; "train" and the others must not overlap.
        prefix: folder of relative paths; empty: that of the CSV file.
        separator: between path and label.
        backend: decoder of the runs.
        every_frame: decode all frames, instead of the first, the middle and the last.
    """

    csv_files: Mapping[str, Path]
    prefix: str
    separator: str
    backend: str
    every_frame: bool

    def run(self) -> tuple[list[Problem], str]:
        """Check everything, and write the lists, the clean CSV files and the statistics.

        An interrupted check resumes from its journal.

        Returns:
            All problems, and the report to print.

        Raises:
            UserError: a CSV file cannot be read, or none of its first videos exists.
        """
        splits = {name: self._read(path) for name, path in self.csv_files.items()}
        problems = [problem for split in splits.values() for problem in split.problems]
        problems += compare_splits(splits, num_classes=self.num_classes)
        facts = {}
        bad: list[BadVideo] = []
        way = f"{self.backend}, {'every frame' if self.every_frame else 'three frames'}"
        with self.open_journal(way) as journal:
            for name, split in splits.items():
                paths = LabeledPaths(split.csv_path, split.entries)
                videos = LabeledVideos(paths, prefix=split.prefix, backend=self.backend)
                facts[name] = self.check_split(name, videos, journal, every_frame=self.every_frame)
                bad_of_split = bad_videos(videos, facts[name])
                bad += bad_of_split
                self._write_clean(name, split, bad_of_split)
        labels = {name: split.labels for name, split in splits.items()}
        draw_statistics(self.output / "statistics.png", facts, labels)
        return self.write_results(problems, bad, summarize(facts, labels))

    def _read(self, path: Path) -> Split:
        split = read_split(
            path,
            prefix=Path(self.prefix) if self.prefix else path.parent,
            separator=self.separator,
            num_classes=self.num_classes,
        )
        if not split.entries:
            first = "".join(f"; {problem.text}" for problem in split.problems[:1])
            raise UserError(f"{path} has no valid line{first}")
        return split

    def _write_clean(self, name: str, split: Split, bad: Sequence[BadVideo]) -> None:
        left_out = split.duplicates | {video.line for video in bad}
        lines = [
            f"{entry.path}{self.separator}{entry.label}\n"
            for entry in split.entries
            if entry.line not in left_out
        ]
        path = self.output / f"{name}.clean.csv"
        path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def read_split(csv_path: Path, *, prefix: Path, separator: str, num_classes: int) -> Split:
    """Read all lines of a CSV file, and collect problems instead of stopping at the first.

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
            text = f"{csv_path}, line {entry.line}: {entry.path} is already on line {earlier.line}"
            if entry.label != earlier.label:
                text += f", with label {earlier.label} instead of {entry.label}"
            split.duplicates.add(entry.line)
            split.problems.append(Problem("duplicate", text))
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
                text = f"{entry.path} is also a training video ({train.csv_path}, line {line})"
                problems.append(Problem("overlap", f"{split.csv_path}, line {entry.line}: {text}"))
    missing = sorted(set(range(num_classes)) - set(train.labels))
    if missing:
        text = f"{train.csv_path}: {len(missing)} of {num_classes} classes have no video"
        problems.append(Problem("class", f"{text}: {_format_ranges(missing)}"))
    return problems


def _format_ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as ranges: 1, 4-7."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)


def summarize(
    facts: Mapping[str, Sequence[VideoFacts]], labels: Mapping[str, Sequence[int]]
) -> pd.DataFrame:
    """Make a table of statistics with one column for each split.

    Args:
        facts: of the videos of each split.
        labels: of the same videos.
    """
    return pd.DataFrame({name: _statistics(facts[name], labels[name]) for name in facts})


def draw_statistics(
    path: Path, facts: Mapping[str, Sequence[VideoFacts]], labels: Mapping[str, Sequence[int]]
) -> None:
    """Plot lengths, frame rates, sizes and classes of all splits to a PNG file."""
    figure = Figure(figsize=(11, 8), dpi=_DPI, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(2, 2)
    readable = [_readable(videos) for videos in facts.values()]
    quantities: dict[str, Callable[[VideoFacts], float]] = {
        "length in seconds": lambda video: video.seconds,
        "frames a second": lambda video: video.fps,
        "short side in pixels": lambda video: min(video.height, video.width),
    }
    for axis, (quantity, value_of) in zip(axes.flat, quantities.items(), strict=False):
        values = [[value_of(video) for video in videos] for videos in readable]
        axis.hist(values, bins=_BINS, histtype="step", label=list(facts))
        axis.set(xlabel=quantity, ylabel="videos")
    for name, split_labels in labels.items():
        counts = sorted(Counter(split_labels).values(), reverse=True)
        axes[1, 1].stairs(counts, label=name)
    axes[1, 1].set(xlabel="classes, the largest first", ylabel="videos", ylim=(0, None))
    axes[1, 1].legend()
    figure.savefig(path)


def _statistics(facts: Sequence[VideoFacts], labels: Sequence[int]) -> dict[str, str]:
    readable = _readable(facts)
    per_class = Counter(labels)
    return {
        "videos": str(len(facts)),
        "unreadable": str(len(facts) - len(readable)),
        "classes with videos": str(len(per_class)),
        "videos a class": _range(per_class.values()),
        "hours": f"{sum(video.seconds for video in readable) / 3600:.4g}",
        "seconds": _range(video.seconds for video in readable),
        "frames": _range(video.frames for video in readable),
        "frames a second": _most_common(f"{video.fps:.4g}" for video in readable),
        "width x height": _most_common(f"{video.width}x{video.height}" for video in readable),
    }


def _readable(facts: Iterable[VideoFacts]) -> list[VideoFacts]:
    return [video for video in facts if not video.error]


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    return f"{ordered[0]:.4g} to {ordered[-1]:.4g}, median {median(ordered):.4g}"


def _most_common(values: Iterable[str]) -> str:
    counts = Counter(values)
    named = [f"{value} ({count})" for value, count in counts.most_common(_MAX_COMMON)]
    num_others = len(counts) - len(named)
    return ", ".join(named) + (f", {num_others} others" if num_others > 0 else "") or "-"
