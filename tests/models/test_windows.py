"""Cutting a grid into windows: a permutation that is undone, whatever the size and the shift."""

from itertools import product

import pytest
import torch

from stvit_video.models.layers.windows import fit_window, merge, partition, plan_windows

CPU = torch.device("cpu")
GRIDS = [(1, 1, 1), (1, 7, 7), (2, 4, 6), (3, 5, 7), (8, 14, 14), (9, 8, 15)]
WINDOWS = [((2, 3, 3), (1, 1, 1)), ((8, 7, 7), (4, 3, 3)), ((1, None, None), (0, 0, 0))]


def plan_of(grid, window, shift, *, batch=1, mask_padding=False):
    return plan_windows(batch, grid, window, shift, mask_padding, CPU)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("window", "shift"), WINDOWS)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_merge_undoes_partition(batch, grid, window, shift, mask_padding):
    plan = plan_of(grid, window, shift, batch=batch, mask_padding=mask_padding)
    x = torch.randn(batch, *grid, 2)
    windows = partition(x, plan)
    assert windows.shape[0] == sum(count for count, _ in plan.groups)
    assert torch.equal(merge(windows, plan), x)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 1)])
def test_a_window_holds_neighbours_of_the_rolled_grid(shift):
    batch, grid, window = 2, (4, 6, 4), (2, 3, 2)
    plan = plan_of(grid, window, shift, batch=batch)
    places = torch.stack(
        torch.meshgrid(*(torch.arange(size) for size in (batch, *grid)), indexing="ij"), dim=-1
    )
    seen = set()
    for tokens in partition(places, plan).tolist():
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
    plan = plan_of((1, 2, 3), (1, 2, 2), (0, 0, 0))
    windows = partition(torch.ones(1, 1, 2, 3, 1), plan)
    assert plan.padded == (1, 2, 4)
    assert windows[..., 0].tolist() == [[1, 1, 1, 1], [1, 0, 1, 0]]


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
    assert fit_window(grid, window, shift) == fitted


def test_windows_without_a_mask_form_one_group():
    assert [mask for _, mask in plan_of((8, 14, 14), (8, 7, 7), (0, 0, 0)).groups] == [None]
    groups = plan_of((1, 28, 28), (1, 7, 7), (0, 3, 3)).groups
    assert sorted(count for count, _ in groups) == [1, 3, 3, 9]
    assert [count for count, mask in groups if mask is None] == [9]


def test_masks_keep_apart_what_the_shift_brought_together():
    # 4 columns in windows of 2, shifted by 1: columns 1 2 | 3 0.
    ((_, free), (_, mask)) = plan_of((1, 1, 4), (1, 1, 2), (0, 0, 1)).groups
    assert free is None
    assert mask.tolist() == [[0, -100], [-100, 0]]


def test_masks_hide_padding_from_all_tokens():
    # 3 columns in windows of 2: columns 0 1 | 2 and padding.
    ((_, free), (_, mask)) = plan_of((1, 1, 3), (1, 1, 2), (0, 0, 0), mask_padding=True).groups
    assert free is None
    assert mask[:, 0].isfinite().all()
    assert (mask[:, 1] == float("-inf")).all()


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_no_window_is_padding_alone(shift):
    for size in range(1, 18):
        plan = plan_of((1, 1, size), (1, 1, 7), (0, 0, shift), mask_padding=True)
        masks = [mask for _, mask in plan.groups if mask is not None]
        assert all((mask > float("-inf")).any(-1).all() for mask in masks)


def test_the_gradient_of_the_permutation_is_its_inverse():
    plan = plan_of((3, 5, 4), (2, 3, 3), (1, 1, 1), batch=2)
    x = torch.randn(2, 3, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    windows = partition(x, plan)
    weights = torch.randn_like(windows)
    (windows * weights).sum().backward()
    assert torch.equal(x.grad, merge(weights, plan))
    assert torch.autograd.gradcheck(lambda x: merge(partition(x, plan).square(), plan), x)
