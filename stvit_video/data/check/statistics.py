"""What the videos of a data set are like: a table and a picture."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stvit_video.data.check.journal import VideoFacts

# Values of a quantity that are named, the commonest first.
_NAMED = 3
_BINS = 40
_DOTS_PER_INCH = 130


def summarise(
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
