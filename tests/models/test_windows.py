"""Test that partitioning a grid into windows is a permutation, and its inverse, at any size."""

from itertools import product
from math import prod

import pytest
import torch

from stvit_video.models.layers.windows import (
    group_mask,
    plan_windows,
    window_order,
    window_partition,
    window_reverse,
)

CPU = torch.device("cpu")
GRIDS = [(1, 1, 1), (1, 7, 7), (2, 4, 6), (3, 5, 7), (8, 14, 14), (9, 8, 15)]
WINDOWS = [((2, 3, 3), (1, 1, 1)), ((8, 7, 7), (4, 3, 3)), ((1, None, None), (0, 0, 0))]


def groups_of(plan):
    """Return the number of windows and the mask of each group."""
    return [
        (prod(run.windows for run in group), group_mask(plan, group, CPU)) for group in plan.groups
    ]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("window", "shift"), WINDOWS)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_window_reverse_undoes_window_partition(batch, grid, window, shift, mask_padding):
    plan = plan_windows(grid, window, shift, mask_padding=mask_padding)
    order = window_order(plan, batch, CPU)
    x = torch.randn(batch, *grid, 2)
    windows = window_partition(x, plan, order)
    counts = sum(count for count, _ in groups_of(plan))
    assert windows.shape == (counts, batch, prod(plan.window), 2)
    assert torch.equal(window_reverse(windows, plan, order), x)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 1)])
def test_a_window_holds_neighbors_of_the_rolled_grid(shift):
    batch, grid, window = 2, (4, 6, 4), (2, 3, 2)
    plan = plan_windows(grid, window, shift)
    places = torch.stack(
        torch.meshgrid(*(torch.arange(size) for size in (batch, *grid)), indexing="ij"), dim=-1
    )
    windows = window_partition(places, plan, window_order(plan, batch, CPU))
    seen = set()
    for tokens in windows.flatten(0, 1).tolist():
        assert len({token[0] for token in tokens}) == 1, "a window mixes two grids"
        rolled = [
            [(at - step) % size for at, step, size in zip(token[1:], shift, grid, strict=True)]
            for token in tokens
        ]
        corner = rolled[0]
        assert all(start % side == 0 for start, side in zip(corner, window, strict=True))
        offsets = [[a - b for a, b in zip(token, corner, strict=True)] for token in rolled]
        assert offsets == [list(offset) for offset in product(*map(range, window))]
        seen.add((tokens[0][0], *corner))
    assert len(seen) == batch * 2 * 2 * 2


def test_padding_is_zeros_behind_the_grid():
    plan = plan_windows((1, 2, 3), (1, 2, 2))
    windows = window_partition(torch.ones(1, 1, 2, 3, 1), plan, window_order(plan, 1, CPU))
    assert plan.padded == (1, 2, 4)
    assert windows[:, 0, :, 0].tolist() == [[1, 1, 1, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("grid", "window", "shift", "fitted"),
    [
        ((16, 56, 56), (8, 7, 7), (4, 3, 3), ((8, 7, 7), (4, 3, 3))),
        ((4, 7, 56), (8, 7, 7), (4, 3, 3), ((4, 7, 7), (0, 0, 3))),
        ((8, 6, 8), (8, 7, 7), (4, 3, 3), ((8, 6, 7), (0, 0, 3))),
        ((16, 6, 5), (1, None, None), (0, 0, 0), ((1, 6, 5), (0, 0, 0))),
        ((16, 6, 5), (8, None, None), (4, 0, 0), ((8, 6, 5), (4, 0, 0))),
    ],
)
def test_a_window_is_cut_to_its_grid_and_then_not_shifted(grid, window, shift, fitted):
    plan = plan_windows(grid, window, shift)
    assert (plan.window, plan.shift) == fitted


def test_a_grid_is_padded_where_windows_are_not_cut():
    plan = plan_windows((1, 5, 9), (1, 7, 7), (0, 3, 3), cut=False)
    assert (plan.window, plan.shift, plan.padded) == ((1, 7, 7), (0, 3, 3), (1, 7, 14))


def test_windows_without_a_mask_form_one_group():
    assert [mask for _, mask in groups_of(plan_windows((8, 14, 14), (8, 7, 7)))] == [None]
    groups = groups_of(plan_windows((1, 28, 28), (1, 7, 7), (0, 3, 3)))
    assert sorted(count for count, _ in groups) == [1, 3, 3, 9]
    assert [count for count, mask in groups if mask is None] == [9]


def test_masks_keep_apart_what_the_shift_brought_together():
    # 4 columns in windows of 2, shifted by 1: the windows are 1 2 | 3 0.
    ((_, free), (_, mask)) = groups_of(plan_windows((1, 1, 4), (1, 1, 2), (0, 0, 1)))
    assert free is None
    assert mask.tolist() == [[0, -100], [-100, 0]]


def test_masks_hide_padding_from_all_tokens():
    # 3 columns in windows of 2: the windows are 0 1 | 2 padding.
    plan = plan_windows((1, 1, 3), (1, 1, 2), mask_padding=True)
    ((_, free), (_, mask)) = groups_of(plan)
    assert free is None
    assert mask[:, 0].isfinite().all()
    assert (mask[:, 1] == float("-inf")).all()


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_no_window_is_padding_alone(shift):
    for size in range(1, 18):
        plan = plan_windows((1, 1, size), (1, 1, 7), (0, 0, shift), mask_padding=True)
        masks = [mask for _, mask in groups_of(plan) if mask is not None]
        assert all((mask > float("-inf")).any(-1).all() for mask in masks)


def test_the_gradient_of_the_permutation_is_its_inverse():
    plan = plan_windows((3, 5, 4), (2, 3, 3), (1, 1, 1))
    order = window_order(plan, 2, CPU)
    x = torch.randn(2, 3, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    windows = window_partition(x, plan, order)
    weights = torch.randn_like(windows)
    (windows * weights).sum().backward()
    assert torch.equal(x.grad, window_reverse(weights, plan, order))

    def there_and_back(x):
        return window_reverse(window_partition(x, plan, order).square(), plan, order)

    assert torch.autograd.gradcheck(there_and_back, x)
