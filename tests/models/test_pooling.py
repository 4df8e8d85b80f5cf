"""Test pooled initial cluster centers at any size, and learned ones."""

import pytest
import torch
import torch.nn.functional as F

from stvit_video.models.semantic.pooling import (
    AveragePooling,
    IntraInterPooling,
    LearnedCenters,
    MaxPooling,
    PoolingRegions,
    new_centers,
)

SEVEN = PoolingRegions(window=7, tokens=3)
FRAME = PoolingRegions(window=None, tokens=4)
GRIDS = [(14, 14), (7, 7), (28, 7), (15, 10), (5, 3), (1, 1)]


def intra_inter(regions, *, dim):
    return IntraInterPooling(regions, dim=dim, grid=(14, 14))


@pytest.mark.parametrize("grid", [(7, 7), (14, 21)])
@pytest.mark.parametrize(
    ("pooling", "adaptive"),
    [
        (AveragePooling(SEVEN), F.adaptive_avg_pool2d),
        (MaxPooling(SEVEN), F.adaptive_max_pool2d),
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


@pytest.mark.parametrize("grid", [(9, 10), (3, 2), (1, 1)])
@pytest.mark.parametrize(
    ("pooling", "adaptive"),
    [(AveragePooling, F.adaptive_avg_pool2d), (MaxPooling, F.adaptive_max_pool2d)],
)
def test_one_window_over_the_grid_is_adaptive_pooling(grid, pooling, adaptive):
    x = torch.randn(2, *grid, 4)
    expected = adaptive(x.permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(pooling(PoolingRegions(window=None, tokens=3))(x), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("regions", [SEVEN, FRAME], ids=["windows", "frame"])
def test_untrained_intra_inter_pooling_is_average_pooling(regions, grid):
    x = torch.randn(2, *grid, 8)
    found = intra_inter(regions, dim=8)(x)
    torch.testing.assert_close(found, AveragePooling(regions)(x))


@pytest.mark.parametrize("regions", [SEVEN, FRAME], ids=["windows", "frame"])
def test_no_mask_or_offset_leaves_a_region_without_tokens(regions):
    pooling = intra_inter(regions, dim=4)
    for weight, bias in ((1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (1e4, 1e4)):
        for function in (pooling.intra, pooling.inter):
            torch.nn.init.constant_(function.pointwise.weight, weight)
        torch.nn.init.constant_(pooling.inter.pointwise.bias, bias)
        for grid in GRIDS:
            x = torch.randn(1, *grid, 4, requires_grad=True)
            centers = pooling(x)
            assert centers.isfinite().all()
            grads = torch.autograd.grad(centers.square().sum(), [x, *pooling.parameters()])
            assert all(grad.isfinite().all() for grad in grads)


def test_gradients_reach_all_of_it_after_one_step():
    pooling = intra_inter(SEVEN, dim=8)
    optimizer = torch.optim.SGD(pooling.parameters(), lr=0.1)
    x, target = torch.randn(2, 14, 14, 8), torch.randn(2, 6, 6, 8)
    learning = []
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(pooling(x), target).backward()
        gradients = {name: parameter.grad for name, parameter in pooling.named_parameters()}
        learning.append({name for name, gradient in gradients.items() if gradient.any()})
        optimizer.step()
    last_layers = {"intra.pointwise.weight", "inter.pointwise.weight", "inter.pointwise.bias"}
    assert learning == [last_layers, set(gradients)]


@pytest.mark.parametrize(("std", "tolerance"), [(2, 0.05), (50, None)])
def test_masks_stay_finite_in_float16(std, tolerance):
    pooling = intra_inter(SEVEN, dim=8)
    torch.nn.init.normal_(pooling.intra.pointwise.weight, std=std)
    x = torch.randn(2, 14, 14, 8)
    expected = pooling(x)
    with torch.autocast("cpu", torch.float16):
        found = pooling(x)
    assert found.isfinite().all()
    if tolerance is not None:
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("regions", "dim", "expected"), [(FRAME, 192, 7888), (SEVEN, 384, 13065)])
def test_its_parameters_are_few(regions, dim, expected):
    """DeiT-T and Swin-T."""
    assert sum(p.numel() for p in intra_inter(regions, dim=dim).parameters()) == expected


def test_learned_centers_are_the_same_for_every_image_and_repeat_over_larger_grids():
    learned = new_centers(SEVEN, dim=8, grid=(14, 7))
    assert learned.shape == (6, 3, 8)
    assert learned.std().item() == pytest.approx(0.02, rel=0.2)
    centers = LearnedCenters(SEVEN, centers=learned)(torch.randn(2, 28, 10, 8))
    assert centers.shape == (2, 12, 5, 8)
    assert torch.equal(centers[0], centers[1])
    assert torch.equal(centers[0, :6, :3], learned)
    assert torch.equal(centers[0, 6:, 3:], learned[:, :2])


@pytest.mark.parametrize("grid", [(14, 14), (9, 10)])
def test_mixed_precision_leaves_centers_as_precise_as_tokens(grid):
    """Centers are the start of the residual stream of all later layers."""
    x = torch.randn(2, *grid, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for pooling in (AveragePooling(SEVEN), MaxPooling(SEVEN), intra_inter(SEVEN, dim=8)):
            assert pooling(x).dtype == torch.float32
