"""Keep track of unreadable videos: count them against a limit and list them in a CSV file."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stvit_video.data.labeled_paths import LabeledPaths
from stvit_video.errors import UserError
from stvit_video.runtime.atomic_files import write_bytes_atomically
from stvit_video.runtime.distributed import gather_objects, get_rank, get_world_size
from stvit_video.runtime.logging import get_logger

_COLUMNS = ("path", "label", "csv", "line", "error", "kills")
# Bad videos that the error message names when there are too many of them.
_MAX_NAMED = 3

_log = get_logger(__name__)


@dataclass(frozen=True)
class BadVideo:
    """An entry of a CSV file whose video cannot be read, and the reason.

    Workers send these to the main process together with the samples of a batch.

    Attributes:
        index: index of the video in its data set.
        path: path as written in the CSV file.
        label: label of the entry.
        csv: the CSV file.
        line: line of the CSV file, from 1.
        error: the first error.
        crashes_worker: the process reading it crashed or had to be killed, so it is not opened
            again.
        read_by_fallback: the configured decoder failed with ``error``, but the fallback decoder
            read it, so it is not bad after all.
        is_image: it is an image of a folder or of an annotation file; ``line`` is its number there.
    """

    index: int
    path: str
    label: int
    csv: str
    line: int
    error: str
    crashes_worker: bool = False
    read_by_fallback: bool = False
    is_image: bool = False

    def __str__(self) -> str:
        unit, kind = ("image", "image") if self.is_image else ("line", "video")
        return f"{self.csv}, {unit} {self.line}: cannot read the {kind} {self.path}: {self.error}"


class BadVideoError(UserError):
    """Raised by a data set when it cannot read a video; the attribute ``bad`` is its `BadVideo`."""

    def __init__(self, bad: BadVideo) -> None:
        super().__init__(bad)
        self.bad = bad

    def __str__(self) -> str:
        return f"{self.bad}; replace or remove it"


class BadVideoLog:
    """The bad videos of one CSV file that this rank knows of.

    Each one is logged when it is first reported, and written to the list of bad videos
    (quarantine.csv) immediately. The list outlives the run: a resumed run keeps its entries and
    never opens a listed video that crashed a worker. All other listed videos are retried, and count
    only if they fail again.

    Args:
        paths: the entries of the CSV file.
        file: the list of bad videos, shared with other CSV files; None: not written.
        max_bad: number of bad videos to tolerate.
        handling: what happens to bad videos, for the log: "left out", "replaced by another one".
    """

    def __init__(
        self, paths: LabeledPaths, *, file: Path | None, max_bad: int, handling: str
    ) -> None:
        self.max_bad = max_bad
        self._paths = paths
        self._file = file
        self._handling = handling
        self._read_by_fallback: set[int] = set()
        self._listed = self._read_listed()
        self._bad = {index: bad for index, bad in self._listed.items() if bad.crashes_worker}
        self._num_logged = 0

    @property
    def bad(self) -> list[BadVideo]:
        """Videos that failed, or that are never opened, in the order of the CSV file."""
        return [self._bad[index] for index in sorted(self._bad)]

    @property
    def crashing(self) -> dict[int, BadVideo]:
        """Videos that crashed a worker and must not be opened again, by index."""
        return {index: bad for index, bad in self._bad.items() if bad.crashes_worker}

    @property
    def read_by_fallback(self) -> frozenset[int]:
        """Indices of the videos that only the fallback decoder could read."""
        return frozenset(self._read_by_fallback)

    def add(self, reports: Iterable[BadVideo]) -> None:
        """Add the reports of a batch; a video counts once, however often it is reported.

        Raises:
            UserError: there are more than ``max_bad`` bad videos.
        """
        new = [report for report in reports if self._record(report)]
        for report in new:
            handling = (
                "the fallback decoder read it"
                if report.read_by_fallback
                else f"it is {self._handling}"
            )
            _log.warning("%s; %s", report, handling)
        if any(not report.read_by_fallback for report in new):
            self._write()
        self._check_limit()

    def share(self) -> None:
        """Exchange the bad videos between all ranks; every rank must call this.

        Raises:
            UserError: the ranks together have more than ``max_bad`` bad videos.
        """
        if get_world_size() > 1:
            gathered = gather_objects((self.bad, self._read_by_fallback))
            self._read_by_fallback.update(*(indices for _, indices in gathered))
            # A single call, so that the file of rank 0 is complete even if it raises.
            self.add(bad for videos, _ in gathered for bad in videos)
        if len(self._bad) > self._num_logged and self._file is not None:
            self._num_logged = len(self._bad)
            _log.info(
                "%d of the %d %s of %s could not be read so far (%s); %s lists them",
                self._num_logged,
                len(self._paths),
                self._paths.items,
                self._paths.csv_path,
                self._handling,
                self._file,
            )

    def _record(self, report: BadVideo) -> bool:
        """Record a report, and return whether it says something new about its video."""
        if report.read_by_fallback:
            is_new = report.index not in self._read_by_fallback
            self._read_by_fallback.add(report.index)
            return is_new
        known = self._bad.get(report.index)
        if known is None:
            self._bad[report.index] = report
        elif report.crashes_worker and not known.crashes_worker:
            # It keeps its first error, but must not be opened again.
            self._bad[report.index] = dataclasses.replace(known, crashes_worker=True)
        return self._bad[report.index] is not known

    def _check_limit(self) -> None:
        if len(self._bad) <= self.max_bad:
            return
        named = "; ".join(
            f"line {bad.line}, {bad.path}: {bad.error}" for bad in self.bad[:_MAX_NAMED]
        )
        more = ", ..." if len(self._bad) > _MAX_NAMED else ""
        lists = retry_hint = ""
        if self._file is not None:
            files = self._file.with_name(f"{self._file.stem}*{self._file.suffix}")
            lists = f" ({files} lists all)"
            if self.crashing:
                retry_hint = (
                    f"; those that crashed a worker ({len(self.crashing)}) are retried only after "
                    f"their lines are removed from {files}"
                )
        raise UserError(
            f"{len(self._bad)} of the {len(self._paths)} {self._paths.items} of "
            f"{self._paths.csv_path} cannot be read ({named}{more}){lists}, and "
            f"DATA.MAX_BAD_VIDEOS is {self.max_bad}: remove them (tools/check_data.py finds them "
            f"all), replace them, or raise DATA.MAX_BAD_VIDEOS{retry_hint}"
        )

    def _read_listed(self) -> dict[int, BadVideo]:
        """Read the listed videos, of any rank, that still stand on their line of this CSV file."""
        if self._file is None:
            return {}
        stem, suffix = self._file.stem, self._file.suffix
        files = [self._file, *sorted(self._file.parent.glob(f"{stem}_rank*{suffix}"))]
        listed = {}
        for bad in (bad for file in files if file.exists() for bad in read_bad_videos(file)):
            if not self._is_from_this_csv(bad):
                continue
            index = self._paths.index_of(bad.path, line=bad.line)
            if index is not None:
                listed[index] = dataclasses.replace(bad, index=index)
        return listed

    def _write(self) -> None:
        if self._file is None:
            return
        file = self._file
        # Rank 0 writes the file itself, as `share` tells it the bad videos of all other ranks.
        if rank := get_rank():
            file = file.with_name(f"{file.stem}_rank{rank}{file.suffix}")
        existing = read_bad_videos(file) if file.exists() else []
        others = [bad for bad in existing if not self._is_from_this_csv(bad)]
        own = {**self._listed, **self._bad}
        write_bad_videos(file, others + [own[index] for index in sorted(own)])

    def _is_from_this_csv(self, bad: BadVideo) -> bool:
        return bad.csv == str(self._paths.csv_path)


def read_bad_videos(file: Path) -> list[BadVideo]:
    """Read a list of bad videos; it does not hold the indices of the videos, which are -1.

    Raises:
        UserError: the file is not such a list.
    """
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        try:
            return [
                BadVideo(
                    index=-1,
                    path=row["path"],
                    label=int(row["label"]),
                    csv=row["csv"],
                    line=int(row["line"]),
                    error=row["error"],
                    crashes_worker=row["kills"] == "True",
                )
                for row in csv.DictReader(opened)
            ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise UserError(
                f"{file} is not a list of bad videos with the columns {', '.join(_COLUMNS)}; move "
                "it away"
            ) from error


def write_bad_videos(file: Path, videos: Sequence[BadVideo]) -> None:
    """Write a list of bad videos atomically, as a CSV file that pandas reads."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        (bad.path, bad.label, bad.csv, bad.line, bad.error, bad.crashes_worker) for bad in videos
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(file, table.getvalue().encode("utf-8", errors="surrogateescape"))


def report_unread(evaluation: str, unit: str, *, read: int, expected: int) -> None:
    """Log how many videos or images an evaluation leaves out because they cannot be read.

    Args:
        evaluation: name of the evaluation, for the message: "Validation", "The test".
        unit: what it reads: "video" or "image".
        read: number of units that were read.
        expected: number of units in the data set.

    Raises:
        UserError: none could be read, so there is nothing to measure.
    """
    if not read:
        raise UserError(
            f"{evaluation} has no {unit} to measure: none of its {expected} could be read; "
            "see quarantine.csv in OUTPUT_DIR for the reasons."
        )
    if read < expected:
        _log.warning(
            "%s covers %d of %d %ss: %d could not be read (see quarantine.csv)",
            evaluation,
            read,
            expected,
            unit,
            expected - read,
        )
