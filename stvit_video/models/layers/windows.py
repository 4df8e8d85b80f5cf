"""Partition a grid of tokens into attention windows, and reverse it.

Notation: B batch, T frames, H rows, W columns, C channels; M windows of a grid, N tokens of a
window.

Shifted windows follow Swin Transformer, section 3.2: the grid is rolled by the shift, and a mask
keeps tokens apart that are not neighbors but share a window. Only the last windows along each axis
need a mask. Windows with the same mask form a group, and attention runs once per group: the masks
of all windows of a Video Swin's first stage would take 79 MB.

The plan for a grid size consists of Python integers. Tensors are created in each forward pass on
the device: the indices of the tokens are rolled and partitioned, then the tokens are gathered once.
(Partitioning the tokens themselves copies them three times: 6.3 instead of 1.9 ms for the first
stage of a Video Swin-T, one clip, one core.)
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]
WindowSize = tuple[int | None, int | None, int | None]

# Added to the logits of pairs of tokens that the shift brought into one window, as in Swin.
SHIFT_PENALTY = -100.0


class WindowRun(NamedTuple):
    """Consecutive windows along one axis that have the same mask.

    Attributes:
        first: index of the first window.
        windows: number of windows.
        masked: whether they hold masked padding, or tokens that the shift brought together.
    """

    first: int
    windows: int
    masked: bool


@dataclass(frozen=True)
class WindowPlan:
    """Partition of a grid into windows, with each attribute by axis (frames, rows, columns).

    Attributes:
        grid: size of the grid.
        window: sides of a window; not larger than the grid, unless windows are never cut.
        shift: roll of the grid.
        runs: windows that have the same mask.
        mask_padding: whether padding is masked.
    """

    grid: Size
    window: Size
    shift: Size
    runs: tuple[tuple[WindowRun, ...], ...]
    mask_padding: bool

    @property
    def counts(self) -> Size:
        """Number of windows along each axis."""
        t, h, w = (runs[-1].first + runs[-1].windows for runs in self.runs)
        return t, h, w

    @property
    def padded(self) -> Size:
        """Size of the grid, padded to complete windows."""
        t, h, w = (count * side for count, side in zip(self.counts, self.window, strict=True))
        return t, h, w

    @property
    def groups(self) -> list[tuple[WindowRun, ...]]:
        """Groups of windows with the same mask: a run along each axis."""
        return list(product(*self.runs))


def plan_windows(
    grid: Size,
    window: WindowSize,
    shift: Size = (0, 0, 0),
    *,
    mask_padding: bool = False,
    cut: bool = True,
) -> WindowPlan:
    """Plan the windows of a grid.

    Args:
        grid: frames, rows and columns.
        window: sides of a window; None covers the whole axis.
        shift: roll of each axis.
        mask_padding: mask padding. Otherwise tokens attend to padding as zeros, which the released
            Swin and Video Swin models were trained with.
        cut: reduce windows to the size of a smaller grid, as in the released Video Swin.
            Otherwise pad the grid, as in the released Swin for detection.
    """
    sides, shifts, runs = [], [], []
    for size, side, step in zip(grid, window, shift, strict=True):
        covered = side is None or (cut and size <= side)
        sides.append(size if side is None or covered else side)
        shifts.append(0 if covered else step)
        runs.append(_runs(size, sides[-1], shifts[-1], mask_padding=mask_padding))
    return WindowPlan(
        grid=grid,
        window=(sides[0], sides[1], sides[2]),
        shift=(shifts[0], shifts[1], shifts[2]),
        runs=tuple(runs),
        mask_padding=mask_padding,
    )


def _runs(size: int, side: int, shift: int, *, mask_padding: bool) -> tuple[WindowRun, ...]:
    count = -(-size // side)
    first = count - 1 if shift else count  # first masked window
    if mask_padding and size < count * side:
        first = min(first, max(size - shift, 0) // side)
    plain = (WindowRun(0, first, masked=False),) if first else ()
    return (*plain, *(WindowRun(index, 1, masked=True) for index in range(first, count)))


def window_order(plan: WindowPlan, batch: int, device: torch.device) -> Tensor | None:
    """Return the index of the token at each position of the windows, group by group.

    Returns:
        int64 ``[M, B, N]``, indices into the flattened padded grids; None if all tokens stay in
        place.
    """
    counts, sides = plan.counts, plan.window
    if prod(counts) == 1 and not any(plan.shift):
        return None
    indices = torch.arange(prod(plan.padded), device=device).view(plan.padded)
    if any(plan.shift):
        indices = indices.roll([-step for step in plan.shift], dims=(0, 1, 2))
    split = [size for pair in zip(counts, sides, strict=True) for size in pair]
    windows = indices.view(split).permute(0, 2, 4, 1, 3, 5).flatten(3)
    slices = [tuple(slice(run.first, run.first + run.windows) for run in g) for g in plan.groups]
    order = torch.cat([windows[group].flatten(0, 2) for group in slices])
    starts = torch.arange(batch, device=device) * prod(plan.padded)
    return order[:, None] + starts[:, None]


def window_partition(x: Tensor, plan: WindowPlan, order: Tensor | None) -> Tensor:
    """Partition grids ``[B, T, H, W, C]`` into windows ``[M, B, N, C]``.

    Args:
        x: the grids.
        plan: plan of their size.
        order: see :func:`window_order`.
    """
    if plan.padded != plan.grid:
        (t, h, w), (pt, ph, pw) = plan.grid, plan.padded
        x = F.pad(x, (0, 0, 0, pw - w, 0, ph - h, 0, pt - t))
    rows = x.flatten(0, 3)
    if order is not None:
        rows = rows.index_select(0, order.flatten())
    return rows.view(prod(plan.counts), x.shape[0], prod(plan.window), x.shape[4])


def window_reverse(windows: Tensor, plan: WindowPlan, order: Tensor | None) -> Tensor:
    """Reverse :func:`window_partition`: ``[M, B, N, C]`` to grids ``[B, T, H, W, C]``."""
    rows = windows.flatten(0, 2)
    if order is not None:
        order = order.flatten()
        positions = torch.arange(order.shape[0], device=order.device)
        rows = rows.index_select(0, torch.empty_like(order).scatter_(0, order, positions))
    t, h, w = plan.grid
    return rows.view(windows.shape[1], *plan.padded, windows.shape[3])[:, :t, :h, :w]


def group_mask(
    plan: WindowPlan, group: tuple[WindowRun, ...], device: torch.device
) -> Tensor | None:
    """Return the mask of a group to add to the logits, float32 ``[N, N]``; None for no mask."""
    if not any(run.masked for run in group):
        return None
    apart = torch.zeros((1,) * 6, dtype=torch.bool, device=device)
    padding = torch.zeros((1,) * 3, dtype=torch.bool, device=device)
    for axis, run in enumerate(group):
        if not run.masked:
            continue
        size, side, shift = plan.grid[axis], plan.window[axis], plan.shift[axis]
        padded = plan.padded[axis]
        positions = torch.arange(run.first * side, (run.first + 1) * side, device=device)
        wrapped = positions >= padded - shift
        queries, keys = [1] * 6, [1] * 6
        queries[axis] = keys[3 + axis] = side
        apart = apart | (wrapped.view(queries) ^ wrapped.view(keys))
        if plan.mask_padding:
            padding = padding | ((positions + shift) % padded >= size).view(keys[3:])
    full = torch.zeros((*plan.window, *plan.window), device=device)
    mask = full.masked_fill(apart, SHIFT_PENALTY).masked_fill(padding, float("-inf"))
    return mask.flatten(0, 2).flatten(1)
