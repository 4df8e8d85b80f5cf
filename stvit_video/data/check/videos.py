"""Decode every video of a list in worker processes, and summarize what they are like."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import Dataset, Sampler

from stvit_video.data.bad_videos import BadVideo, BadVideoLog
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.loader import VideoLoader
from stvit_video.runtime.logging import progress

# Values of a quantity that are named, the commonest first.
_NAMED = 3
_BINS = 40
_DOTS_PER_INCH = 130


def summarize(
    facts: Mapping[str, Sequence[VideoFacts]], labels: Mapping[str, Sequence[int]]
) -> pd.DataFrame:
    """Make a table with a row for each quantity and a column for each split.

    Args:
        facts: of the videos of each split.
        labels: of the same.
    """
    columns = {name: _column(facts[name], labels[name]) for name in facts}
    return pd.DataFrame(columns)


def draw_statistics(
    path: Path, facts: Mapping[str, Sequence[VideoFacts]], labels: Mapping[str, Sequence[int]]
) -> None:
    """Draw lengths, rates, sizes and classes of all splits as a PNG file."""
    figure = Figure(figsize=(11, 8), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(2, 2)
    good = [_good(values) for values in facts.values()]
    quantities: dict[str, Callable[[VideoFacts], float]] = {
        "length in seconds": lambda video: video.seconds,
        "frames a second": lambda video: video.fps,
        "short side in pixels": lambda video: min(video.height, video.width),
    }
    for axis, (quantity, of_video) in zip(axes.flat, quantities.items(), strict=False):
        numbers = [[of_video(video) for video in videos] for videos in good]
        axis.hist(numbers, bins=_BINS, histtype="step", label=list(facts))
        axis.set(xlabel=quantity, ylabel="videos")
    for name, own in labels.items():
        axes[1, 1].stairs(sorted(Counter(own).values(), reverse=True), label=name)
    axes[1, 1].set(xlabel="classes, the largest first", ylabel="videos", ylim=(0, None))
    axes[1, 1].legend()
    figure.savefig(path)


def _column(facts: Sequence[VideoFacts], labels: Sequence[int]) -> dict[str, str]:
    good = _good(facts)
    per_class = Counter(labels)
    return {
        "videos": str(len(facts)),
        "unreadable": str(len(facts) - len(good)),
        "classes with videos": str(len(per_class)),
        "videos a class": _range(per_class.values()),
        "hours": f"{sum(video.seconds for video in good) / 3600:.4g}",
        "seconds": _range(video.seconds for video in good),
        "frames": _range(video.frames for video in good),
        "frames a second": _commonest(f"{video.fps:.4g}" for video in good),
        "width x height": _commonest(f"{video.width}x{video.height}" for video in good),
    }


def _good(facts: Iterable[VideoFacts]) -> list[VideoFacts]:
    return [video for video in facts if not video.error]


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    return f"{ordered[0]:.4g} to {ordered[-1]:.4g}, median {median(ordered):.4g}"


def _commonest(values: Iterable[str]) -> str:
    counts = Counter(values)
    named = [f"{value} ({count})" for value, count in counts.most_common(_NAMED)]
    rest = len(counts) - len(named)
    return ", ".join(named) + (f", {rest} others" if rest > 0 else "") or "-"


# Frames that are held at a time.
_CHUNK = 32


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
        videos: the list; where its decoder is decord, PyAV is the fallback.
        journal: takes what is found, at once.
        every_frame: decode all frames, instead of the first, the middle and the last.
        num_workers: processes.
        seconds_per_video: limit of the time for one video.
        title: of the bar.

    Returns:
        What is known of each video, in the order of the list.
    """
    files = [str(videos.file(index)) for index in range(len(videos))]
    # A file that is not there is never in the journal.
    found = {i: facts for i, file in enumerate(files) if (facts := journal.get(file)) is not None}
    todo = [index for index in range(len(videos)) if index not in found]
    bar = progress(range(len(videos)), total=len(videos), description=title)
    bar.update(len(found))

    def note(index: int, facts: VideoFacts) -> None:
        bar.update(index not in found)
        found[index] = facts
        journal.add(files[index], facts)

    fallback = None
    if videos.backend == "decord":
        fallback = _DecodedVideos(videos.with_backend("pyav"), every_frame=every_frame)
    loader = VideoLoader(
        _DecodedVideos(videos, every_frame=every_frame),
        batch_sampler=_OneByOne(todo),
        num_workers=num_workers,
        pin_memory=False,
        bad_video_log=_Findings(videos, note=note),
        fallback=fallback,
        seconds_per_video=seconds_per_video,
    )
    for batch in loader if todo else ():
        values = {name: values[0].item() for name, values in batch.items()}
        note(values.pop("video_index"), VideoFacts(**values))
    bar.close()
    return [found[index] for index in range(len(videos))]


class _DecodedVideos(Dataset[dict[str, Any]]):
    """Decodes a video, and says what it is like."""

    def __init__(self, videos: LabeledVideos, *, every_frame: bool) -> None:
        self._videos = videos
        self._every_frame = every_frame

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self._videos.open(index) as reader:
            last = reader.num_frames - 1
            wanted = range(last + 1) if self._every_frame else sorted({0, last // 2, last})
            for begin in range(0, len(wanted), _CHUNK):
                height, width = reader.get_frames(wanted[begin : begin + _CHUNK]).shape[1:3]
            return {
                "video_index": index,
                "frames": reader.num_frames,
                "fps": reader.fps,
                "height": height,
                "width": width,
            }

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        return self._videos.bad_video(index, error, crashes_worker=crashes_worker)


class _Findings(BadVideoLog):
    """Notes every bad video, and puts up with all of them."""

    def __init__(self, videos: LabeledVideos, *, note: Any) -> None:
        super().__init__(videos.paths, file=None, max_bad=len(videos), handling="")
        self._note = note

    def add(self, reports: Iterable[BadVideo]) -> None:
        for bad in reports:
            if self._record(bad) and not bad.read_by_fallback:
                self._note(
                    bad.index, VideoFacts(error=bad.error, crashes_worker=bad.crashes_worker)
                )


class _OneByOne(Sampler[list[int]]):
    def __init__(self, indices: list[int]) -> None:
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[list[int]]:
        return ([index] for index in self._indices)
