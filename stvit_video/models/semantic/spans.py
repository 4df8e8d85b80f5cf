"""Stretches of tokens along one axis, and gathering those of many windows at once.

Letters: N frames, H W grid of tokens, C channels; I J windows along rows and columns, a b tokens
of a window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, int]  # rows and columns


def grid_of(x: Tensor) -> Grid:
    """Give the rows and columns of ``[N, H, W, C]``."""
    # While fvcore traces a model its sizes are tensors.
    return int(x.shape[1]), int(x.shape[2])


class Span(NamedTuple):
    """Tokens along one axis: the first, and the one after the last."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class Windows(NamedTuple):
    """How an axis of image tokens is cut into windows, and each window into semantic tokens.

    The semantic tokens of a window stand for the regions of adaptive pooling, which may overlap:
    7 tokens are cut into [0, 3), [2, 5) and [4, 7). Where the last window is not whole, regions
    that hold no token are left out, so every semantic token stands for at least one image token.

    Attributes:
        window: side of a window in image tokens (w of the paper); None makes the whole axis one
            window.
        tokens: semantic tokens of a window along the axis (w_s of the paper).
    """

    window: int | None
    tokens: int

    def side(self, size: int) -> int:
        """Give the side of a window on an axis of ``size`` tokens."""
        return size if self.window is None else self.window

    def regions_of_a_window(self, size: int) -> list[Span]:
        """Give the image tokens of each semantic token of a whole window."""
        side, tokens = self.side(size), self.tokens
        return [Span(side * k // tokens, -(side * (k + 1) // -tokens)) for k in range(tokens)]

    def regions(self, size: int) -> list[Span]:
        """Give the image tokens of each semantic token of an axis."""
        return [
            Span(origin + start, min(origin + stop, size))
            for origin in range(0, size, self.side(size))
            for start, stop in self.regions_of_a_window(size)
            if origin + start < size
        ]


def positions(spans: Sequence[Span], *, length: int, device: torch.device) -> Tensor:
    """Number the tokens of each span, ``length`` from its start on: int64 ``[spans, length]``."""
    starts = [torch.arange(a, a + length, device=device) for a, _ in spans]
    return torch.stack(starts)


def window_tokens(rows: Tensor, columns: Tensor, *, width: int) -> Tensor:
    """Number the tokens of windows in a grid of ``width`` columns.

    Args:
        rows: of each window, ``[I, a]``.
        columns: of each window, ``[J, b]``.
        width: columns of the grid.

    Returns:
        int64 ``[I, J, a, b]``.
    """
    return rows[:, None, :, None] * width + columns[None, :, None, :]


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Gather tokens of each frame into windows, in one copy.

    Their gradients are added up where windows overlap, on a CUDA device in a fixed order only
    with ``torch.use_deterministic_algorithms``. (Windows cut by ``Tensor.unfold`` or by slices
    need 1.7 to 3.3 times as long, with the backward pass.)

    Args:
        x: ``[N, tokens, C]``.
        index: of any shape.

    Returns:
        ``[N, *index.shape, C]``.
    """
    return x.index_select(1, index.flatten()).unflatten(1, index.shape)
