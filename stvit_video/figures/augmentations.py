"""Draw augmented clips: columns are samples, rows are frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Indices of the drawn frames.
_FRAMES = (0, 7, 14)
# Width of the white gap between frames, in pixels.
_GAP = 6
_DOTS_PER_INCH = 100
# A small palette keeps the files small, because the noise of the videos does not compress.
_COLORS = 64


@dataclass(frozen=True)
class Column:
    """A clip, uint8 [C, T, H, W], and its title."""

    title: str
    video: Tensor


def draw_columns(path: Path, columns: Sequence[Column]) -> None:
    """Draw frames of clips of equal height side by side, each with its title above."""
    strips = [_strip(column.video) for column in columns]
    image = torch.cat(strips, dim=1).numpy()
    ends = np.cumsum([strip.shape[1] for strip in strips])
    centers = [
        end - _GAP - column.video.shape[3] / 2 for end, column in zip(ends, columns, strict=True)
    ]
    side = columns[0].video.shape[2]
    rows = [(side + _GAP) * row + side / 2 for row in range(len(_FRAMES))]

    height, width = image.shape[0] / _DOTS_PER_INCH, image.shape[1] / _DOTS_PER_INCH
    figure = Figure(figsize=(1.2 * width + 0.3, 1.15 * height + 0.4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    axes.imshow(image)
    axes.xaxis.tick_top()
    axes.set_xticks(centers, [column.title for column in columns], fontsize=7)
    axes.set_yticks(rows, [f"frame {frame}" for frame in _FRAMES], fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _strip(video: Tensor) -> Tensor:
    """Stack the drawn frames of a clip [C, T, H, W], with gaps: [n (H + gap), W + gap, C]."""
    frames = F.pad(video[:, list(_FRAMES)], (0, _GAP, 0, _GAP), value=255)
    return frames.flatten(1, 2).permute(1, 2, 0)


def draw_soft_labels(path: Path, classes: Sequence[str]) -> None:
    """Draw the target of a clip: hard, smoothed, and mixed with another smoothed target."""
    label, other, share, smoothing = 1, 4, 0.7, 0.1
    hard = torch.eye(len(classes))
    smoothed = hard * (1 - smoothing) + smoothing / len(classes)
    targets = {
        "hard label": hard[label],
        f"smoothed by {smoothing}": smoothed[label],
        f"mixed {share} to {1 - share:.1f}": share * smoothed[label]
        + (1 - share) * smoothed[other],
    }
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(1, len(targets), sharey=True)
    for axis, (title, target) in zip(axes, targets.items(), strict=True):
        bars = axis.barh(classes, target.numpy())
        axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        axis.set(title=title, xlim=(0, 1.25), xlabel="share of the target")
    axes[0].invert_yaxis()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.set_dpi(_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).quantize(_COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
