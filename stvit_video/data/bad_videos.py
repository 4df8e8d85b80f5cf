"""Videos that cannot be read: counted against a budget, and listed in a file."""

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


@dataclass(frozen=True)
class BadVideo:
    """A line of a CSV file whose video cannot be read, and why.

    It travels from a worker process to the main one beside the samples of a batch.

    Attributes:
        index: of the video in its data set.
        path: as the CSV file has it.
        label: of the line.
        csv: the CSV file.
        line: of the CSV file, from 1.
        error: the first error that was met.
        crashes_worker: the process that read it died or had to be ended, so it is not opened again.
        second_try: the decoder of the config failed with ``error``, but the second one read it;
            so it is not bad after all.
        is_image: it is an image of a folder or an annotation file, which ``line`` counts.
    """

    index: int
    path: str
    label: int
    csv: str
    line: int
    error: str
    crashes_worker: bool = False
    second_try: bool = False
    is_image: bool = False

    def __str__(self) -> str:
        unit, what = ("image", "image") if self.is_image else ("line", "video")
        return f"{self.csv}, {unit} {self.line}: cannot read the {what} {self.path}: {self.error}"


class BadVideoError(UserError):
    """What a data set raises for a `BadVideo`, which is its attribute ``bad``."""

    def __init__(self, bad: BadVideo) -> None:
        super().__init__(bad)
        self.bad = bad

    def __str__(self) -> str:
        return f"{self.bad}; replace or remove it"


_COLUMNS = ("path", "label", "csv", "line", "error", "kills")
# Bad videos that are named when there are too many of them.
_NAMED = 3

_log = get_logger(__name__)


class BadVideoLog:
    """The bad videos of one CSV file, as far as this rank knows them.

    Each is logged when it is met first, and written to the quarantine file at once. The file
    outlives the run: what is in it stays there when the run is resumed, and videos that killed a
    worker are not opened again as long as they stand there. All others are tried again, and
    count when they fail again.

    Args:
        paths: the lines of the CSV file.
        file: the quarantine file, which has the lines of other CSV files too; None: no file.
        max_bad: bad videos that are put up with.
        fate: what becomes of them, for the log: "left out", "replaced by another video".
    """

    def __init__(self, paths: LabeledPaths, *, file: Path | None, max_bad: int, fate: str) -> None:
        self.max_bad = max_bad
        self._paths = paths
        self._file = file
        self._fate = fate
        self._second_tries: set[int] = set()
        self._listed = self._still_listed()
        self._met = {index: bad for index, bad in self._listed.items() if bad.crashes_worker}
        self._shared = 0

    @property
    def bad(self) -> list[BadVideo]:
        """Bad videos that were met, or that are not opened, in the order of the CSV file."""
        return [self._met[index] for index in sorted(self._met)]

    @property
    def crashing(self) -> dict[int, BadVideo]:
        """Those that must not be opened again, by their index."""
        return {index: bad for index, bad in self._met.items() if bad.crashes_worker}

    @property
    def second_tries(self) -> frozenset[int]:
        """Videos that the decoder of the config could not read, and the second one could."""
        return frozenset(self._second_tries)

    def add(self, reports: Iterable[BadVideo]) -> None:
        """Take up what a batch reported; a video counts once, however often it comes.

        Raises:
            UserError: there are more bad videos than are put up with.
        """
        new = [report for report in reports if self._is_news(report)]
        for report in new:
            fate = "the second decoder reads it" if report.second_try else f"it is {self._fate}"
            _log.warning("%s; %s", report, fate)
        if any(not report.second_try for report in new):
            self._write()
        self._check_budget()

    def share(self) -> None:
        """Tell all ranks what each of them has met; every rank must call this.

        Raises:
            UserError: together they have met more bad videos than are put up with.
        """
        if get_world_size() > 1:
            gathered = gather_objects((self.bad, self._second_tries))
            self._second_tries.update(*(second_tries for _, second_tries in gathered))
            # All at once: with too many, the file of rank 0 lists them all the same.
            self.add(bad for met, _ in gathered for bad in met)
        if len(self._met) > self._shared and self._file is not None:
            self._shared = len(self._met)
            _log.info(
                "%d of the %d %s of %s could not be read so far (%s); %s lists them",
                *(self._shared, len(self._paths), self._paths.items, self._paths.csv_path),
                *(self._fate, self._file),
            )

    def _is_news(self, report: BadVideo) -> bool:
        """Remember a report, and say whether its video was not known to be so bad."""
        if report.second_try:
            is_news = report.index not in self._second_tries
            self._second_tries.add(report.index)
            return is_news
        known = self._met.get(report.index)
        if known is None:
            self._met[report.index] = report
        elif report.crashes_worker and not known.crashes_worker:
            # With its first error, but it must not be opened again.
            self._met[report.index] = dataclasses.replace(known, crashes_worker=True)
        return self._met[report.index] is not known

    def _check_budget(self) -> None:
        if len(self._met) <= self.max_bad:
            return
        names = "; ".join(f"line {bad.line}, {bad.path}: {bad.error}" for bad in self.bad[:_NAMED])
        more = ", ..." if len(self._met) > _NAMED else ""
        where = again = ""
        if self._file is not None:
            files = self._file.with_name(f"{self._file.stem}*{self._file.suffix}")
            where = f" ({files} lists all)"
            if self.crashing:
                again = (
                    f"; those that ended their reader ({len(self.crashing)}) are opened again only "
                    f"when their lines are removed from {files}"
                )
        raise UserError(
            f"{len(self._met)} of the {len(self._paths)} {self._paths.items} of "
            f"{self._paths.csv_path} cannot be read ({names}{more}){where}, and "
            f"DATA.MAX_BAD_VIDEOS is {self.max_bad}: take them out (tools/check_data.py finds "
            f"every one), replace them, or raise DATA.MAX_BAD_VIDEOS{again}"
        )

    def _still_listed(self) -> dict[int, BadVideo]:
        """Lines of the quarantine files that are about this CSV file as it is now."""
        listed = {}
        for bad in self._read_files():
            index = self._paths.index_of(bad.path, line=bad.line) if self._is_ours(bad) else None
            if index is not None:
                listed[index] = dataclasses.replace(bad, index=index)
        return listed

    def _read_files(self) -> list[BadVideo]:
        if self._file is None:
            return []
        own = rank_file(self._file, rank=0)
        files = [own, *sorted(own.parent.glob(f"{own.stem}_rank*{own.suffix}"))]
        return [bad for file in files if file.exists() for bad in read_bad_videos(file)]

    def _is_ours(self, bad: BadVideo) -> bool:
        return bad.csv == str(self._paths.csv_path)

    def _write(self) -> None:
        if self._file is None:
            return
        file = rank_file(self._file, rank=get_rank())
        kept = read_bad_videos(file) if file.exists() else []
        others = [bad for bad in kept if not self._is_ours(bad)]
        ours = {**self._listed, **self._met}
        write_bad_videos(file, others + [ours[index] for index in sorted(ours)])


def rank_file(file: Path, *, rank: int) -> Path:
    """Where a rank writes: rank 0 the file itself, as it learns in the end what all others met."""
    return file.with_name(f"{file.stem}_rank{rank}{file.suffix}") if rank else file


def read_bad_videos(file: Path) -> list[BadVideo]:
    """Read a quarantine file; the videos' indices are not in it, and are -1.

    Raises:
        UserError: it is not such a file.
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
                f"{file} is no list of bad videos with the columns {', '.join(_COLUMNS)}; move it "
                "away"
            ) from error


def write_bad_videos(file: Path, videos: Sequence[BadVideo]) -> None:
    """Write bad videos as a CSV file that pandas reads; a crash leaves the old or the new one."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        (bad.path, bad.label, bad.csv, bad.line, bad.error, bad.crashes_worker) for bad in videos
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(file, table.getvalue().encode("utf-8", errors="surrogateescape"))


def report_unread(what: str, unit: str, *, read: int, expected: int) -> None:
    """Log how many videos or images an evaluation leaves out because they cannot be read.

    Raises:
        UserError: none could be read, so there is nothing to measure.
    """
    if not read:
        raise UserError(
            f"{what} is over no {unit}: none of its {expected} could be read; quarantine.csv in "
            "OUTPUT_DIR says why."
        )
    if read < expected:
        _log.warning(
            "%s is over %d of %d %ss: %d could not be read (quarantine.csv says why)",
            *(what, read, expected, unit, expected - read),
        )
