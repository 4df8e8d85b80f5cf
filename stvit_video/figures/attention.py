"""Draw attention maps of semantic tokens over frames (paper, Figure 3)."""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

# Largest numbers of rows and of columns with tokens.
_MAX_FRAMES, _MAX_TOKENS = 5, 6
_DOTS_PER_INCH = 130


def draw_attention(path: Path, frames: np.ndarray, maps: Tensor, *, title: str) -> None:
    """Draw attention maps over frames as a PNG file.

    Args:
        path: the PNG file.
        frames: uint8 ``[T, H, W, 3]``.
        maps: ``[t, h, w, y, x]``, attention of h x w semantic tokens over y x x image tokens at
            each of t time steps.
        title: title of the figure.
    """
    steps = np.unique(np.linspace(0, len(maps) - 1, _MAX_FRAMES).round().astype(int))
    tokens = maps.flatten(1, 2)  # [t, h w, y, x]
    focus = tokens.flatten(2).amax(-1).mean(0)
    chosen = sorted(focus.topk(min(_MAX_TOKENS, len(focus))).indices.tolist())
    shape = (len(steps), 1 + len(chosen))
    figure = Figure(figsize=(1.3 * shape[1], 1.3 * shape[0] + 0.5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(*shape, squeeze=False)
    figure.suptitle(title, fontsize=10)
    for row, step in zip(axes, steps, strict=True):
        frame = frames[min(int((step + 0.5) * len(frames) / len(maps)), len(frames) - 1)]
        row[0].imshow(frame)
        row[0].set_ylabel(f"step {step}", fontsize=8)
        for axis, token in zip(row[1:], chosen, strict=True):
            axis.imshow(_overlay(frame, tokens[step, token]))
    for axis, token in zip(axes[0][1:], chosen, strict=True):
        axis.set_title(f"token {divmod(token, maps.shape[2])}", fontsize=8)
    axes[0][0].set_title("frame", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _overlay(frame: np.ndarray, attention: Tensor) -> np.ndarray:
    """Overlay attention ``[y, x]`` on a frame ``[H, W, 3]``: low is dark, high is tinted red."""
    relative = attention / attention.max().clamp(min=1e-12)
    resized = F.interpolate(
        relative[None, None], size=frame.shape[:2], mode="bilinear", align_corners=False
    )
    strength = resized[0, 0].numpy()[..., None]
    tint = np.array([255.0, 60.0, 0.0]) * strength
    return (frame * (0.3 + 0.4 * strength) + 0.3 * tint).clip(0, 255).astype(np.uint8)
