"""Draw a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# With more classes than this, numbers in cells or class names are too small to read.
_MAX_WITH_NUMBERS = 25
_MAX_WITH_NAMES = 60
_DOTS_PER_INCH = 150


def draw_confusion_matrix(path: Path, counts: np.ndarray, *, class_names: Sequence[str]) -> None:
    """Draw a confusion matrix as a PNG file: rows are labels, columns are predictions.

    Colors show the share of each row; a row without videos is blank. Cells also show the number
    of videos if there are few enough classes to read them.

    Args:
        path: the PNG file.
        counts: [K, K], number of videos of class i that are predicted as class j.
        class_names: K names, in the order of labels.
    """
    videos = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, videos, out=np.zeros(counts.shape), where=videos > 0)
    size = float(np.clip(2.5 + 0.45 * len(counts), 5, 14))
    # pyplot is avoided: it keeps global state and may look for a display.
    figure = Figure(figsize=(size + 1, size), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's videos", shrink=0.8)
    axes.set(xlabel="prediction", ylabel="label")
    if len(counts) <= _MAX_WITH_NAMES:
        fontsize = 10 if len(counts) <= _MAX_WITH_NUMBERS else 6
        ticks = range(len(counts))
        axes.set_xticks(ticks, class_names, rotation=60, ha="right", fontsize=fontsize)
        axes.set_yticks(ticks, class_names, fontsize=fontsize)
    if len(counts) <= _MAX_WITH_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                color = "white" if share > 0.5 else "black"
                text = str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
