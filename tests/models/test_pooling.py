"""The three poolings that give initial cluster centres."""

import pytest
import torch
import torch.nn.functional as F

from stvit_video.models.semantic.pooling import (
    AdaptiveAveragePooling,
    AdaptiveMaxPooling,
    IntraInterPooling,
)
from stvit_video.models.semantic.regions import Windows

SEVEN = Windows(window=7, tokens=3)
GRIDS = [(14, 14), (7, 7), (28, 7), (15, 10), (5, 3), (1, 1)]


@pytest.mark.parametrize("grid", [(7, 7), (14, 21)])
@pytest.mark.parametrize(
    ("pooling", "adaptive"),
    [
        (AdaptiveAveragePooling(SEVEN), F.adaptive_avg_pool2d),
        (AdaptiveMaxPooling(SEVEN), F.adaptive_max_pool2d),
    ],
)
def test_whole_windows_are_pooled_as_torch_pools_them(grid, pooling, adaptive):
    x = torch.randn(2, *grid, 4)
    rows = []
    for top in range(0, grid[0], 7):
        windows = [x[:, top : top + 7, left : left + 7] for left in range(0, grid[1], 7)]
        pooled = [adaptive(window.permute(0, 3, 1, 2), 3) for window in windows]
        rows.append(torch.cat(pooled, dim=3))
    torch.testing.assert_close(pooling(x), torch.cat(rows, dim=2).permute(0, 2, 3, 1))


def test_training_follows_an_evaluation_of_the_same_size():
    pooling, x = IntraInterPooling(Windows(window=5, tokens=2), dim=4), torch.randn(1, 5, 10, 4)
    with torch.inference_mode():
        expected = pooling(x)
    pooled = pooling(x)
    assert torch.equal(pooled, expected)
    pooled.sum().backward()
    assert pooling.offset.pointwise.weight.grad is not None


@pytest.mark.parametrize("grid", [(9, 10), (3, 2), (1, 1)])
@pytest.mark.parametrize(
    ("pooling", "adaptive"),
    [
        (AdaptiveAveragePooling, F.adaptive_avg_pool2d),
        (AdaptiveMaxPooling, F.adaptive_max_pool2d),
    ],
)
def test_one_window_over_the_grid_is_adaptive_pooling(grid, pooling, adaptive):
    x = torch.randn(2, *grid, 4)
    expected = adaptive(x.permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(pooling(Windows(window=None, tokens=3))(x), expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_untrained_intra_inter_pooling_is_average_pooling(grid):
    x = torch.randn(2, *grid, 8)
    found = IntraInterPooling(SEVEN, dim=8)(x)
    torch.testing.assert_close(found, AdaptiveAveragePooling(SEVEN)(x))


def randomised(*, dim):
    """An intra/inter-window pooling in double precision, as if it were trained."""
    pooling = IntraInterPooling(SEVEN, dim=dim).double()
    for predictor in (pooling.mask, pooling.offset):
        for parameter in predictor.pointwise.parameters():
            torch.nn.init.normal_(parameter)
    return pooling


def moved_mean(x, weights, rows, columns, shift):
    """The weighted mean of ``x [H, W, C]`` over one region moved by a shift in tokens."""
    total, norm = 0.0, 0.0
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            share = weights[row, column]
            for cell, (start, stop), step in ((row, rows, shift[0]), (column, columns, shift[1])):
                share = share * max(0.0, min(cell + 1, stop + step) - max(cell, start + step))
            total, norm = total + share * x[row, column], norm + share
    return total / norm


@pytest.mark.parametrize("grid", [(7, 7), (9, 5)])
def test_intra_inter_pooling_is_a_weighted_mean_of_moved_regions(grid):
    pooling = randomised(dim=4)
    x = torch.randn(1, *grid, 4, dtype=torch.float64)
    with torch.no_grad():
        found = pooling(x)[0]
        weights = (20 * (pooling.mask(x)[0, ..., 0] / 20).tanh()).exp()
        regions = [SEVEN.regions(size) for size in grid]
        still = [
            [moved_mean(x[0], weights, rows, columns, (0, 0)) for columns in regions[1]]
            for rows in regions[0]
        ]
        centers = torch.stack([torch.stack(line) for line in still])
        offsets = pooling.offset(centers[None])[0].tanh()
        assert offsets.abs().max() > 0.3
        for i, rows in enumerate(regions[0]):
            for j, columns in enumerate(regions[1]):
                shift = [
                    (float(offset) * (stop - start) / 2)
                    for offset, (start, stop) in zip(offsets[i, j], (rows, columns), strict=True)
                ]
                expected = moved_mean(x[0], weights, rows, columns, shift)
                torch.testing.assert_close(found[i, j], expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("axis", "name"), [(0, "rows"), (1, "columns")])
def test_an_offset_moves_regions_along_its_axis(axis, name, sign):
    places = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    x = torch.stack(places, dim=-1)[None]  # each token's channels are its row and its column
    pooling = IntraInterPooling(SEVEN, dim=2)
    with torch.no_grad():
        still = pooling(x)
        pooling.offset.pointwise.bias[axis] = sign * 50  # saturated: half a region
        moved = pooling(x) - still
    inner = moved[:, 1:5, 1:5]  # of these no region leaves the grid
    torch.testing.assert_close(inner[..., axis], torch.full((1, 4, 4), sign * 1.5))
    assert (moved[..., axis] * sign > 0).all(), name
    torch.testing.assert_close(moved[..., 1 - axis], torch.zeros(1, 6, 6), atol=1e-5, rtol=0)


def test_a_mask_weighs_tokens():
    pooling = IntraInterPooling(SEVEN, dim=4)
    x = torch.randn(2, 14, 14, 4)
    average = AdaptiveAveragePooling(SEVEN)(x)
    with torch.no_grad():
        # Let the mask see each token by itself, and like its first channel.
        pooling.mask.depthwise.weight.zero_()
        pooling.mask.depthwise.weight[:, :, 1, 1] = 1
        pooling.mask.depthwise.bias.zero_()
        pooling.mask.pointwise.weight[0, 0] = 5
        assert (pooling(x) > average)[..., 0].float().mean() > 0.95


def test_no_mask_or_offset_leaves_a_region_without_tokens():
    pooling = IntraInterPooling(SEVEN, dim=4)
    for weight, bias in ((1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (1e4, 1e4)):
        for predictor in (pooling.mask, pooling.offset):
            torch.nn.init.constant_(predictor.pointwise.weight, weight)
        torch.nn.init.constant_(pooling.offset.pointwise.bias, bias)
        for grid in GRIDS:
            centers = pooling(torch.randn(1, *grid, 4))
            assert centers.isfinite().all()


def test_gradients_reach_all_of_it_after_one_step():
    pooling = IntraInterPooling(SEVEN, dim=8)
    optimizer = torch.optim.SGD(pooling.parameters(), lr=0.1)
    x, target = torch.randn(2, 14, 14, 8), torch.randn(2, 6, 6, 8)
    learning = []
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(pooling(x), target).backward()
        gradients = {name: parameter.grad for name, parameter in pooling.named_parameters()}
        learning.append({name for name, gradient in gradients.items() if gradient.any()})
        optimizer.step()
    last_layers = {"mask.pointwise.weight", "offset.pointwise.weight", "offset.pointwise.bias"}
    assert learning == [last_layers, set(gradients)]


def test_gradcheck_of_intra_inter_pooling():
    pooling = randomised(dim=3)
    x = torch.randn(1, 8, 5, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in pooling.named_parameters()]

    def pool(x, *values):
        return torch.func.functional_call(pooling, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(pool, (x, *pooling.parameters()))


def test_extreme_masks_stay_finite_in_float16():
    pooling = IntraInterPooling(SEVEN, dim=8)
    torch.nn.init.normal_(pooling.mask.pointwise.weight, std=50)  # logits at both bounds
    x = torch.randn(2, 14, 14, 8)
    expected = pooling(x)
    with torch.autocast("cpu", torch.float16):
        found = pooling(x)
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0)
