"""Common parts of the data set checks: decode videos in worker processes, and report problems."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch.utils.data import Dataset, Sampler

from stvit_video.data.bad_videos import BadVideo, BadVideoLog, write_bad_videos
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.loader import VideoLoader
from stvit_video.runtime.logging import progress

# Problems of each kind in the report; problems.txt lists all.
_MAX_REPORTED = 5
# Decoded frames in memory at a time.
_FRAMES_PER_CHUNK = 32


class Problem(NamedTuple):
    """A problem of a data set.

    Attributes:
        kind: "line", "duplicate", "overlap", "class", "video", "image", "annotation", "ignored"
            or "file".
        text: a sentence that names the file and the line.
    """

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class DatasetCheck:
    """Settings and steps that all checks have in common.

    Attributes:
        num_classes: required number of classes.
        num_workers: worker processes, at least 1, so that a crash does not end the check.
        seconds_per_video: time limit for one video or image; 0: none.
        output: folder for all output files.
    """

    num_classes: int
    num_workers: int
    seconds_per_video: float
    output: Path

    def open_journal(self, way: str) -> closing[Journal]:
        """Open the journal for files that are checked in a certain way."""
        return closing(Journal(self.output / "journal.jsonl", way=way))

    def check_split(
        self, split: str, videos: LabeledVideos, journal: Journal, *, every_frame: bool = True
    ) -> list[VideoFacts]:
        """Decode all videos of a split that the journal does not know."""
        return check_videos(
            videos,
            journal=journal,
            every_frame=every_frame,
            num_workers=self.num_workers,
            seconds_per_video=self.seconds_per_video,
            title=split,
        )

    def write_results(
        self, problems: Sequence[Problem], bad: Sequence[BadVideo], statistics: pd.DataFrame
    ) -> tuple[list[Problem], str]:
        """Write quarantine.csv, statistics.csv and problems.txt.

        Args:
            problems: all problems but the bad videos.
            bad: videos or images that cannot be read.
            statistics: one column for each split.

        Returns:
            All problems, and the report to print.
        """
        problems = [
            *problems,
            *(Problem("image" if video.is_image else "video", str(video)) for video in bad),
        ]
        write_bad_videos(self.output / "quarantine.csv", bad)
        statistics.to_csv(self.output / "statistics.csv")
        text = "".join(f"{problem.text}\n" for problem in problems)
        file = self.output / "problems.txt"
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        table = "" if statistics.empty else f"{statistics.to_string()}\n\n"
        return problems, table + _summarize_problems(problems)


def bad_videos(videos: LabeledVideos, facts: Sequence[VideoFacts]) -> list[BadVideo]:
    """Return the videos that cannot be read."""
    return [
        videos.bad_video(index, video.error, crashes_worker=video.crashes_worker)
        for index, video in enumerate(facts)
        if video.error
    ]


def _summarize_problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return "No problems were found."
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        lines.append(f"{count} of kind {kind}:")
        texts = [problem.text for problem in problems if problem.kind == kind]
        lines += [f"  {text}" for text in texts[:_MAX_REPORTED]]
        if count > _MAX_REPORTED:
            lines.append(f"  ... and {count - _MAX_REPORTED} more")
    return "\n".join(lines)


def check_videos(
    videos: LabeledVideos,
    *,
    journal: Journal,
    every_frame: bool,
    num_workers: int,
    seconds_per_video: float,
    title: str,
) -> list[VideoFacts]:
    """Decode all videos that the journal does not know, with a progress bar.

    Args:
        videos: if their decoder is decord, PyAV is the fallback.
        journal: each result is written to it immediately.
        every_frame: decode all frames, instead of the first, the middle and the last.
        num_workers: worker processes.
        seconds_per_video: time limit for one video.
        title: of the progress bar.

    Returns:
        The facts of each video, in the order of ``videos``.
    """
    files = [str(videos.file(index)) for index in range(len(videos))]
    # The journal never contains missing files.
    known = {i: facts for i, file in enumerate(files) if (facts := journal.get(file)) is not None}
    remaining = [index for index in range(len(videos)) if index not in known]
    bar = progress(range(len(videos)), total=len(videos), description=title)
    bar.update(len(known))

    def record(index: int, facts: VideoFacts) -> None:
        bar.update(index not in known)
        known[index] = facts
        journal.add(files[index], facts)

    fallback = None
    if videos.backend == "decord":
        fallback = _DecodedVideos(videos.with_backend("pyav"), every_frame=every_frame)
    loader = VideoLoader(
        _DecodedVideos(videos, every_frame=every_frame),
        batch_sampler=_SingleVideoSampler(remaining),
        num_workers=num_workers,
        pin_memory=False,
        bad_video_log=_ErrorRecorder(videos, record=record),
        fallback=fallback,
        seconds_per_video=seconds_per_video,
    )
    for batch in loader if remaining else ():
        values = {name: values[0].item() for name, values in batch.items()}
        record(values.pop("video_index"), VideoFacts(**values))
    bar.close()
    return [known[index] for index in range(len(videos))]


class _DecodedVideos(Dataset[dict[str, Any]]):
    """Decodes videos, and returns their properties."""

    def __init__(self, videos: LabeledVideos, *, every_frame: bool) -> None:
        self._videos = videos
        self._every_frame = every_frame

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self._videos.open(index) as reader:
            last = reader.num_frames - 1
            indices = range(last + 1) if self._every_frame else sorted({0, last // 2, last})
            for begin in range(0, len(indices), _FRAMES_PER_CHUNK):
                frames = reader.get_frames(indices[begin : begin + _FRAMES_PER_CHUNK])
                height, width = frames.shape[1:3]
            return {
                "video_index": index,
                "frames": reader.num_frames,
                "fps": reader.fps,
                "height": height,
                "width": width,
            }

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        return self._videos.bad_video(index, error, crashes_worker=crashes_worker)


class _ErrorRecorder(BadVideoLog):
    """Records every bad video, without a limit."""

    def __init__(self, videos: LabeledVideos, *, record: Callable[[int, VideoFacts], None]) -> None:
        super().__init__(videos.paths, file=None, max_bad=len(videos), handling="")
        self._note = record

    def add(self, reports: Iterable[BadVideo]) -> None:
        for bad in reports:
            if self._record(bad) and not bad.read_by_fallback:
                facts = VideoFacts(error=bad.error, crashes_worker=bad.crashes_worker)
                self._note(bad.index, facts)


class _SingleVideoSampler(Sampler[list[int]]):
    def __init__(self, indices: list[int]) -> None:
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[list[int]]:
        return ([index] for index in self._indices)
