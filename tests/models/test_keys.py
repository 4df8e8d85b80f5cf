"""Keys of windows, gathered in one pass, against slices of the grid."""

import pytest
import torch

from stvit_video.models.semantic.keys import gather_keys, plan_keys
from stvit_video.models.semantic.regions import Windows, key_ranges

CPU = torch.device("cpu")
SEVEN = Windows(window=7, tokens=3)
GRIDS = [(14, 14), (15, 10), (8, 28)]


def ranges(grid, key_window):
    return tuple(key_ranges(SEVEN, size=size, key_window=key_window) for size in grid)


def semantic_grid(grid):
    height, width = (len(SEVEN.regions(size)) for size in grid)
    return height, width


def sliced(x, rows, columns, *, semantic, image):
    """The keys of each window, from slices of the two grids."""
    count = semantic[0] * semantic[1] if semantic else 0
    windows = []
    for frame in x:
        for i in range(len(rows.image_starts)):
            for j in range(len(columns.image_starts)):
                keys = []
                if semantic:
                    top, left = rows.semantic_starts[i], columns.semantic_starts[j]
                    below, beside = top + rows.semantic_length, left + columns.semantic_length
                    keys.append(frame[:count].view(*semantic, -1)[top:below, left:beside])
                top, left = rows.image_starts[i], columns.image_starts[j]
                below, beside = top + rows.image_length, left + columns.image_length
                keys.append(frame[count:].view(*image, -1)[top:below, left:beside])
                windows.append(torch.cat([part.flatten(0, 1) for part in keys]))
    return torch.stack(windows)


@pytest.mark.parametrize("with_semantic", [True, False])
@pytest.mark.parametrize("key_window", [4, 7, 10])
@pytest.mark.parametrize("grid", GRIDS)
def test_keys_and_their_gradients_are_those_of_slices(grid, key_window, with_semantic):
    rows, columns = ranges(grid, key_window)
    semantic = semantic_grid(grid) if with_semantic else None
    tokens = grid[0] * grid[1] + (semantic[0] * semantic[1] if semantic else 0)
    x = torch.randn(3, tokens, 5, dtype=torch.float64, requires_grad=True)
    plan = plan_keys(rows, columns, semantic=semantic, image=grid, device=CPU)
    expected = sliced(x, rows, columns, semantic=semantic, image=grid)
    found = gather_keys(x, plan)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(gather_keys(x, plan), expected)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(found, x, weights)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, weights)[0])


@pytest.mark.parametrize("key_window", [None, 28])
def test_windows_that_see_everything_gather_nothing(key_window):
    rows, columns = ranges((14, 14), key_window)
    plan = plan_keys(rows, columns, semantic=(6, 6), image=(14, 14), device=CPU)
    assert plan is None
    x = torch.randn(2, 36 + 196, 3)
    assert gather_keys(x, plan) is x


def test_a_plan_made_for_inference_serves_training():
    rows, columns = ranges((21, 14), 8)
    options = {"semantic": (9, 6), "image": (21, 14), "device": CPU}
    x = torch.randn(1, 54 + 21 * 14, 4)
    with torch.inference_mode():
        gather_keys(x, plan_keys(rows, columns, **options))
    gathered = gather_keys(x.requires_grad_(), plan_keys(rows, columns, **options))
    gathered.sum().backward()
    assert x.grad.max() == 4
