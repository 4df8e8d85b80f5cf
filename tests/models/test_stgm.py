"""Test token generation beyond its equations: frames, sizes, and both residual branches."""

import pytest
import torch

from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.semantic.key_windows import KeyWindows
from stvit_video.models.semantic.pooling import (
    AveragePooling,
    IntraInterPooling,
    PoolingRegions,
    new_centers,
)
from stvit_video.models.semantic.stage import PerFrame
from stvit_video.models.semantic.stgm import SemanticTokenGeneration, SemanticTokenLayer

DIM = 8
SEVEN = PoolingRegions(window=7, tokens=3)
FRAME = PoolingRegions(window=None, tokens=4)
# The last windows of these grids are incomplete; some hold fewer image tokens than regions.
RAGGED = [(15, 10), (10, 16), (24, 9), (5, 3), (1, 1), (2, 12), (8, 1)]


def make_layer(side, **options):
    key_windows = KeyWindows(side, queries=3, keys=7)
    layer = SemanticTokenLayer(BlockSpec(DIM, 2), key_windows=key_windows, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def make_generation(pooling):
    sides = (10, 14) if pooling.regions.window else (None, None)
    first, second = (make_layer(side) for side in sides)
    return SemanticTokenGeneration(
        pooling,
        first=first,
        second=second,
        global_centers=new_centers(pooling.regions, dim=DIM, grid=(14, 14)),
    ).double()


def tokens(*shape):
    return torch.randn(*shape, DIM, dtype=torch.float64)


@pytest.mark.parametrize("size", RAGGED, ids=str)
@pytest.mark.parametrize("regions", [SEVEN, FRAME], ids=["windows", "frame"])
def test_any_size_has_finite_tokens_and_gradients(regions, size):
    pooling = IntraInterPooling(regions, dim=DIM, grid=(14, 14))
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    generation = make_generation(pooling)
    x = tokens(2, *size).requires_grad_()
    found = generation(x)
    assert found.shape == (2, *(len(regions.spans(length)) for length in size), DIM)
    assert found.isfinite().all()
    found.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any(-1).all()
    assert all(parameter.grad.isfinite().all() for parameter in generation.parameters())


@pytest.mark.parametrize(
    "pooling", [AveragePooling(SEVEN), IntraInterPooling(SEVEN, dim=DIM, grid=(14, 14))]
)
def test_frames_do_not_see_each_other(pooling):
    module = PerFrame(make_generation(pooling))
    video = tokens(2, 3, 14, 10)
    found = module(video)
    assert found.shape == (2, 3, 6, 5, DIM)
    for clip in range(2):
        for frame in range(3):
            alone = module.module(video[clip, frame][None])[0]
            torch.testing.assert_close(found[clip, frame], alone)
    video[0, 1] = 0
    change = (module(video) - found).abs().amax(dim=(2, 3, 4))
    assert change[0, 1] > 0
    assert change.count_nonzero() == 1


@pytest.mark.parametrize("side", [10, 14])
def test_layer_scale_and_drop_path_act_on_both_branches(side):
    image, semantic = tokens(64, 14, 14), tokens(64, 6, 6)
    scaled = make_layer(side, layer_scale=0.5)
    for residual in (scaled.residual1, scaled.residual2):
        torch.nn.init.zeros_(residual.scale.gamma)
    assert torch.equal(scaled(semantic, image), semantic)
    dropped = make_layer(side, drop_path=0.5).train()
    kept = (dropped(semantic, image) == semantic).flatten(1).all(1)
    assert 0.05 < kept.double().mean() < 0.6  # a quarter of the frames drop both branches
    assert not (dropped.eval()(semantic, image) == semantic).flatten(1).all(1).any()


def test_what_is_dropped_leaves_something_behind():
    """Without its shortcut the first branch must not be dropped."""
    dropped = make_layer(10, drop_path=0.5, shortcut=False).train()
    found = dropped(tokens(64, 6, 6), tokens(64, 14, 14))
    assert found.flatten(1).any(1).all()
