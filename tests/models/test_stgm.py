"""Generating semantic tokens, against a version that gathers tokens first and projects them."""

import math

import pytest
import torch
from brute_force import multi_head
from torch.func import functional_call

from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.layers.frames import PerFrame
from stvit_video.models.semantic.pooling import AdaptiveAveragePooling, IntraInterPooling
from stvit_video.models.semantic.regions import Windows
from stvit_video.models.semantic.stgm import SemanticTokenGeneration, SemanticTokenLayer

SEVEN = Windows(window=7, tokens=3)
WHOLE = [(14, 14), (28, 28), (7, 21)]
NOT_WHOLE = [(15, 10), (10, 16), (24, 9)]
SMALL = [(5, 3), (7, 7), (1, 1), (2, 12)]
DIM = 8


def make_layer(key_window, *, dim=DIM, windows=SEVEN, **options):
    layer = SemanticTokenLayer(
        BlockSpec(dim, 2), windows=windows, key_window=key_window, **options
    ).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def make_generation(*key_windows, pooling, dim=DIM, **options):
    layers = [make_layer(side, dim=dim, windows=pooling.windows) for side in key_windows]
    return SemanticTokenGeneration(pooling, layers=layers, dim=dim, **options).double()


def tokens(*shape, dim=DIM):
    return torch.randn(*shape, dim, dtype=torch.float64)


def semantic_size(size):
    return len(SEVEN.regions(size))


def keys_along(size, window, key_window):
    """Image tokens and semantic tokens, as slices of an axis, that one window attends to."""
    count = semantic_size(size)
    if key_window >= size:
        return slice(0, size), slice(0, count)
    image = window * 7 + math.ceil((7 - key_window) / 2)
    image = min(max(image, 0), size - key_window)
    neighbours = max(key_window // 7, 1)
    length = min(3 * neighbours, count)
    semantic = 3 * (window - (neighbours - 1) // 2)
    semantic = min(max(semantic, 0), count - length)
    return slice(image, image + key_window), slice(semantic, semantic + length)


def naive_layer(layer, semantic, image, queries=None):
    """The layer for each frame and each window by itself, from the paper's equations."""
    queries = semantic if queries is None else queries
    out = torch.empty_like(queries)
    height, width = image.shape[1:3]
    for frame in range(len(image)):
        for row in range(math.ceil(height / 7)):
            for column in range(math.ceil(width / 7)):
                rows = keys_along(height, row, layer.key_window)
                columns = keys_along(width, column, layer.key_window)
                keys = torch.cat(
                    [
                        semantic[frame, rows[1], columns[1]].flatten(0, 1),
                        image[frame, rows[0], columns[0]].flatten(0, 1),
                    ]
                )
                own = (frame, slice(3 * row, 3 * row + 3), slice(3 * column, 3 * column + 3))
                x = queries[own]
                q, _, _ = layer.attn.qkv(layer.norm1(x.flatten(0, 1))).chunk(3, dim=-1)
                _, k, v = layer.attn.qkv(layer.norm1(keys)).chunk(3, dim=-1)
                attended = multi_head(q, k, v, heads=layer.attn.num_heads)
                x = x + layer.attn.proj(attended).view_as(x)
                out[own] = x + layer.mlp(layer.norm2(x))
    return out


@pytest.mark.parametrize("key_window", [4, 7, 10, 14, 21])
@pytest.mark.parametrize("grid", [*WHOLE, *NOT_WHOLE, *SMALL])
def test_a_layer_is_attention_to_gathered_tokens(grid, key_window):
    layer = make_layer(key_window)
    image = tokens(2, *grid)
    semantic = tokens(2, *map(semantic_size, grid))
    torch.testing.assert_close(layer(semantic, image), naive_layer(layer, semantic, image))


@pytest.mark.parametrize("grid", [(14, 14), (15, 10)])
def test_queries_may_be_other_than_the_semantic_tokens(grid):
    layer = make_layer(10)
    image = tokens(2, *grid)
    semantic, queries = (tokens(2, *map(semantic_size, grid)) for _ in range(2))
    found = layer(semantic, image, queries)
    torch.testing.assert_close(found, naive_layer(layer, semantic, image, queries))
    assert not torch.allclose(found, layer(semantic, image))


def test_gradients_of_a_layer_are_those_of_gathered_tokens():
    layer = make_layer(10)
    image, semantic = tokens(1, 15, 10).requires_grad_(), tokens(1, 7, 5).requires_grad_()
    weights = torch.randn(1, 7, 5, DIM, dtype=torch.float64)
    inputs = [image, semantic, *layer.parameters()]
    found = torch.autograd.grad((layer(semantic, image) * weights).sum(), inputs)
    naive = (naive_layer(layer, semantic, image) * weights).sum()
    for one, other in zip(found, torch.autograd.grad(naive, inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grid", [(14, 14), (15, 10), (5, 3)])
def test_generation_recovers_centres_and_then_adds_the_global_ones(grid):
    pooling = AdaptiveAveragePooling(SEVEN)
    generation = make_generation(10, 14, 14, pooling=pooling)
    image = tokens(2, *grid)
    first, second, third = generation.layers
    centers = naive_layer(first, pooling(image), image)
    queries = centers.clone()
    for row in range(centers.shape[1]):
        for column in range(centers.shape[2]):
            queries[:, row, column] += generation.global_centers[row % 3, column % 3]
    centers = naive_layer(second, centers, image, queries)
    centers = naive_layer(third, centers, image)
    torch.testing.assert_close(generation(image), centers)


def test_global_centres_take_part_and_learn():
    generation = make_generation(10, 14, pooling=AdaptiveAveragePooling(SEVEN))
    image = tokens(1, 14, 14)
    before = generation(image)
    before.square().sum().backward()
    assert generation.global_centers.grad.abs().amin() > 0
    with torch.no_grad():
        generation.global_centers[0, 0] += 1
        change = (generation(image) - before).abs().amax(-1)[0]
    assert change[::3, ::3].min() > 0
    # Keys and values hold the centres without the global ones, so other queries do not see it.
    change[::3, ::3] = 0
    assert change.max() == 0


def test_without_global_centres_there_are_none():
    pooling = AdaptiveAveragePooling(SEVEN)
    generation = make_generation(10, 14, pooling=pooling, global_centers=False)
    assert not [name for name, _ in generation.named_parameters() if "global" in name]
    image = tokens(1, 14, 14)
    first, second = generation.layers
    expected = naive_layer(second, naive_layer(first, pooling(image), image), image)
    torch.testing.assert_close(generation(image), expected)


@pytest.mark.parametrize(
    "pooling", [AdaptiveAveragePooling(SEVEN), IntraInterPooling(SEVEN, dim=DIM)]
)
def test_frames_do_not_see_each_other(pooling):
    module = PerFrame(make_generation(10, 14, pooling=pooling))
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


def test_gradcheck():
    windows = Windows(window=4, tokens=2)
    generation = make_generation(5, 8, pooling=IntraInterPooling(windows, dim=4), dim=4)
    for predictor in (generation.pooling.mask, generation.pooling.offset):
        torch.nn.init.normal_(predictor.pointwise.weight, std=0.3)
    x = tokens(1, 5, 6, dim=4).requires_grad_()
    centers = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)

    def generate(x, centers):
        return functional_call(generation, {"global_centers": centers}, x)

    assert torch.autograd.gradcheck(generate, (x, centers))


@pytest.mark.parametrize("key_window", [10, 14])
def test_layer_scale_and_drop_path_act_on_both_branches(key_window):
    image, semantic = tokens(64, 14, 14), tokens(64, 6, 6)
    scaled = make_layer(key_window, layer_scale=0.5)
    for residual in (scaled.residual1, scaled.residual2):
        torch.nn.init.zeros_(residual.scale.gamma)
    assert torch.equal(scaled(semantic, image), semantic)
    dropped = make_layer(key_window, drop_path=0.5).train()
    kept = (dropped(semantic, image) == semantic).flatten(1).all(1)
    assert 0.05 < kept.double().mean() < 0.6  # both branches of a frame: a quarter
    assert not (dropped.eval()(semantic, image) == semantic).flatten(1).all(1).any()
