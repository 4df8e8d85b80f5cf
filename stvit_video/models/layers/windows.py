"""Cutting a grid of tokens into attention windows, and putting it together again.

Letters: B batch, T frames, H rows, W columns, C channels; M windows (those of all B grids),
N tokens of a window.

Shifted windows follow Swin Transformer, section 3.2: the grid is rolled by the shift, so that
some windows hold tokens that are not neighbours, and a mask keeps those apart. Most windows
need no mask at all and many share one, so windows are sorted by the mask they need: attention
then runs once a group, and no mask is ever repeated for every window. Rolling, cutting and
sorting are one permutation of tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]
WindowSize = tuple[int | None, int | None, int | None]

# What Swin adds to the logits of tokens that a shift brought together.
SHIFT_PENALTY = -100.0


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """How a grid of one size is cut into windows.

    Attributes:
        grid: frames, rows and columns of the grid.
        padded: the same, padded to whole windows.
        window: the window in use: never larger than the grid.
        shift: the roll of each axis.
        order: the token of the padded grids at each place of the windows, int64 ``[M N]``; None
            where tokens stay in place.
        inverse: the permutation that undoes ``order``; None where tokens stay in place.
        groups: number of windows (of all grids) that share a mask, and that mask ``[N, N]``,
            added to the attention logits, or None.
    """

    grid: Size
    padded: Size
    window: Size
    shift: Size
    order: Tensor | None
    inverse: Tensor | None
    groups: tuple[tuple[int, Tensor | None], ...]


def fit_window(
    grid: Size, window: WindowSize, shift: Size, *, cut: bool = True
) -> tuple[Size, Size]:
    """Cut a window to its grid; an axis that one window covers is not shifted.

    A side of None covers its whole axis. As in the released Video Swin Transformer. Without
    ``cut``, as in the released Swin for detection, only such a side is cut.
    """
    sides, shifts = [], []
    for size, side, step in zip(grid, window, shift, strict=True):
        covered = side is None or (cut and size <= side)
        sides.append(size if side is None or covered else side)
        shifts.append(0 if covered else step)
    return (sides[0], sides[1], sides[2]), (shifts[0], shifts[1], shifts[2])


def _axis_labels(size: int, side: int, shift: int, *, mask_padding: bool) -> list[tuple[int, ...]]:
    """Label the positions of each window of one axis: 0, 1 (rolled around) or -1 (padding)."""
    padded = -(-size // side) * side
    labels = []
    for position in range(padded):
        origin = (position + shift) % padded
        is_padding = mask_padding and origin >= size
        labels.append(-1 if is_padding else int(position >= padded - shift))
    return [tuple(labels[start : start + side]) for start in range(0, padded, side)]


def _window_mask(labels: Sequence[Sequence[int]]) -> Tensor | None:
    """Make the additive mask ``[N, N]`` of a window from its labels along the three axes."""
    grids = torch.meshgrid(*(torch.tensor(axis) for axis in labels), indexing="ij")
    tokens = torch.stack([grid.flatten() for grid in grids], dim=1)
    mask = torch.zeros(len(tokens), len(tokens))
    mask[(tokens[:, None] != tokens[None]).any(-1)] = SHIFT_PENALTY
    mask[:, (tokens < 0).any(-1)] = float("-inf")
    return mask if mask.any() else None


# A compiled graph would make the plan anew each time.
@torch.compiler.disable
@lru_cache(maxsize=128)
def plan_windows(
    batch: int,
    grid: Size,
    window: WindowSize,
    shift: Size,
    mask_padding: bool,
    device: torch.device,
    cut: bool = True,
) -> WindowPlan:
    """Plan the windows of grids; the plan of each size is made once and kept.

    Args:
        batch: number of grids B.
        grid: frames, rows and columns of each.
        window: sides of a window; None covers the whole axis.
        shift: the roll of each axis.
        mask_padding: tokens never attend to padding. Without it padding takes part as zeros,
            which is what the released Swin and Video Swin models were trained with.
        device: where the permutation and the masks are needed.
        cut: see :func:`fit_window`.
    """
    # A plan made inside inference_mode must serve training later.
    with torch.inference_mode(False):
        sides, shift = fit_window(grid, window, shift, cut=cut)
        axes = [
            _axis_labels(*axis, mask_padding=mask_padding)
            for axis in zip(grid, sides, shift, strict=True)
        ]
        counts = (len(axes[0]), len(axes[1]), len(axes[2]))
        members: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, labels in enumerate(product(*axes)):
            members.setdefault(labels, []).append(index)
        groups = []
        for labels, windows in members.items():
            mask = _window_mask(labels)
            groups.append((len(windows) * batch, None if mask is None else mask.to(device)))
        sorted_windows = torch.tensor([index for part in members.values() for index in part])
        order = _token_order(batch, counts, sides, shift)[sorted_windows].flatten()
        places = torch.arange(len(order))
        stays = torch.equal(order, places)
        inverse = torch.empty_like(order).scatter_(0, order, places)
        return WindowPlan(
            grid=grid,
            padded=(counts[0] * sides[0], counts[1] * sides[1], counts[2] * sides[2]),
            window=sides,
            shift=shift,
            order=None if stays else order.to(device),
            inverse=None if stays else inverse.to(device),
            groups=tuple(groups),
        )


def _token_order(batch: int, counts: Size, sides: Size, shift: Size) -> Tensor:
    """Give the token at each place of each window: int64 ``[windows, B, N]``."""
    padded = [count * side for count, side in zip(counts, sides, strict=True)]
    tokens = torch.arange(batch * prod(padded)).view(batch, *padded)
    tokens = tokens.roll([-step for step in shift], dims=(1, 2, 3))
    split = [size for pair in zip(counts, sides, strict=True) for size in pair]
    windows = tokens.view(batch, *split).permute(1, 3, 5, 0, 2, 4, 6)
    return windows.reshape(prod(counts), batch, prod(sides))


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient is put back by the inverse, not summed up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def _permute(rows: Tensor, order: Tensor | None, inverse: Tensor | None) -> Tensor:
    if order is None:
        return rows
    if torch.is_grad_enabled():
        return _Permute.apply(rows, order, inverse)
    return rows.index_select(0, order)


def partition(x: Tensor, plan: WindowPlan) -> Tensor:
    """Cut grids ``[B, T, H, W, C]`` into windows ``[M, N, C]``, sorted by mask."""
    rows = _permute(_padded_rows(x, plan), plan.order, plan.inverse)
    return rows.unflatten(0, (-1, prod(plan.window)))


def merge(windows: Tensor, plan: WindowPlan) -> Tensor:
    """Put windows ``[M, N, C]`` of :func:`partition` back into grids ``[B, T, H, W, C]``."""
    return _unpadded(_permute(windows.flatten(0, 1), plan.inverse, plan.order), plan)


def map_windows(
    work: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, plan: WindowPlan, *, size: int
) -> Tensor:
    """Apply ``work`` to a few windows at a time, none of which is kept; not for training.

    Args:
        work: maps windows ``[m, N, C]`` and their mask to ``[m, N, C]``.
        x: grids ``[B, T, H, W, C]``.
        plan: how they are cut.
        size: the largest m.

    Returns:
        grids ``[B, T, H, W, C]``.
    """
    rows, tokens = _padded_rows(x, plan), prod(plan.window)
    out = torch.empty_like(rows)
    first = 0
    for count, mask in plan.groups:
        for start in range(first, first + count, size):
            stop = min(start + size, first + count)
            places = slice(start * tokens, stop * tokens)
            if plan.order is None:
                out[places] = work(rows[places].unflatten(0, (-1, tokens)), mask).flatten(0, 1)
            else:
                piece = rows.index_select(0, plan.order[places]).unflatten(0, (-1, tokens))
                done = work(piece, mask).flatten(0, 1).to(out.dtype)
                out.index_copy_(0, plan.order[places], done)
        first += count
    return _unpadded(out, plan)


def _padded_rows(x: Tensor, plan: WindowPlan) -> Tensor:
    if plan.padded != plan.grid:
        (t, h, w), (pt, ph, pw) = plan.grid, plan.padded
        x = F.pad(x, (0, 0, 0, pw - w, 0, ph - h, 0, pt - t))
    return x.reshape(-1, x.shape[-1])


def _unpadded(rows: Tensor, plan: WindowPlan) -> Tensor:
    t, h, w = plan.grid
    return rows.unflatten(0, (-1, *plan.padded))[:, :t, :h, :w]
