"""Compare values and gradients of the modules with the paper's equations, written as loops."""

import random
from functools import partial

import paper_reference as paper
import pytest
import torch
from torch import nn

from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.semantic.key_windows import CrossWindowAttention, KeyWindows
from stvit_video.models.semantic.pooling import IntraInterPooling, PoolingRegions, new_centers
from stvit_video.models.semantic.recovery import Recovery
from stvit_video.models.semantic.stgm import SemanticTokenGeneration, SemanticTokenLayer

CHANNELS, HEADS, EPS = 8, 2, 1e-6
TRAINED = (14, 14)  # image tokens of stage 3 of Swin and of DeiT at 224 pixels
# (rows, columns, w, w_s): first the paper's, then others.
GRIDS = [
    *((14, 14, None, tokens) for tokens in (4, 6, 8, 10)),
    *((*size, None, 4) for size in ((24, 24), (15, 10), (12, 16), (5, 3), (1, 1))),
    *((*size, 7, tokens) for size in ((14, 14), (13, 9), (15, 20), (5, 3)) for tokens in (2, 3, 4)),
]


def random_grids(count, *, seed):
    draw = random.Random(seed)
    for _ in range(count):
        window = draw.choice([None, 7])
        size = draw.randint(1, 16), draw.randint(1, 16)
        yield (*size, window, draw.choice([2, 3, 4] if window else [2, 3, 4, 6]))


def randomized(module):
    """Draw all weights at random, as weights of zero or one would hide others."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        is_norm = "norm" in name and name.endswith("weight")
        nn.init.normal_(parameter, mean=1.0 if is_norm else 0.0, std=0.4)
    return module.double()


def spec():
    return BlockSpec(CHANNELS, HEADS, 2.0, partial(nn.LayerNorm, eps=EPS))


def pooling_of(window, tokens):
    return IntraInterPooling(PoolingRegions(window, tokens), dim=CHANNELS, grid=TRAINED)


def generation_of(window, tokens, *, layers=3, has_centers=True, **options):
    """Return a generation module as in the configs: key windows of 10 and 14 in Swin."""
    sides = [None] * layers if window is None else [10, 14, 10][:layers]
    made = [
        SemanticTokenLayer(
            spec(),
            key_windows=KeyWindows(side, queries=tokens, keys=window or 1),
            semantic_keys=window is not None or index > 0,
            **options,
        )
        for index, side in enumerate(sides)
    ]
    regions = PoolingRegions(window, tokens)
    return SemanticTokenGeneration(
        pooling_of(window, tokens),
        first=made[0],
        second=made[1],
        further=made[2:],
        global_centers=(new_centers(regions, dim=CHANNELS, grid=TRAINED) if has_centers else None),
    )


def reference_generation(x, weights, window, tokens, *, layers=3, **options):
    return paper.generate(
        x,
        weights,
        heads=HEADS,
        window=window,
        tokens_per_window=tokens,
        key_windows=[None] * layers if window is None else [10, 14, 10][:layers],
        semantic_keys=[window is not None, True, True][:layers],
        r0=largest_region(window, tokens),
        eps=EPS,
        pooling_eps=1e-5,
        **options,
    )


def largest_region(window, tokens):
    return paper.largest_region(TRAINED[0], window=window, tokens=tokens)


def assert_equal(module, reference, inputs, *, float32=False):
    """Compare values and gradients of a module with ``reference(inputs, weights)``.

    The module gets a batch of one. Differences are relative to the largest value, if above 1.
    """
    weights = {name: value.detach().clone() for name, value in module.named_parameters()}
    leaves = [*weights.values(), *(x.clone() for x in inputs)]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = reference(*leaves[len(weights) :], dict(zip(weights, leaves, strict=False)))
    direction = torch.randn(expected.shape, dtype=expected.dtype)
    expected_grads = torch.autograd.grad(
        (expected * direction).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    dtype, tolerance = (torch.float32, 1e-5) if float32 else (torch.float64, 1e-10)
    module = module.to(dtype)
    batch = [x[None].to(dtype).requires_grad_() for x in inputs]
    actual = module(*batch)
    grads = torch.autograd.grad(
        (actual[0] * direction.to(dtype)).sum(),
        [*module.parameters(), *batch],
        allow_unused=True,
        materialize_grads=True,
    )
    assert largest_difference(actual[0], expected) < tolerance
    for name, grad, right in zip([*weights, *("input",) * 2], grads, expected_grads, strict=False):
        grad = grad if grad.shape == right.shape else grad[0]
        assert largest_difference(grad, right) < tolerance, name


def largest_difference(actual, expected):
    assert actual.shape == expected.shape
    assert expected.isfinite().all()
    scale = expected.detach().abs().max().clamp(min=1.0)
    return ((actual.detach().double() - expected.detach()).abs().max() / scale).item()


@pytest.mark.parametrize("float32", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_pooling_is_equations_4_and_5(grid, float32):
    height, width, window, tokens = grid
    module = randomized(pooling_of(window, tokens))
    x = torch.randn(height, width, CHANNELS, dtype=torch.float64)

    def reference(x, weights):
        r0 = largest_region(window, tokens)
        return paper.intra_inter_pooling(x, weights, window=window, tokens=tokens, r0=r0, eps=1e-5)

    assert_equal(module, reference, [x], float32=float32)


@pytest.mark.parametrize("float32", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("grid", [(14, 14, None, 4), (14, 14, 7, 3), (20, 15, 7, 2)], ids=str)
def test_generation_is_equations_1_and_2(grid, float32):
    height, width, window, tokens = grid
    module = randomized(generation_of(window, tokens))
    x = torch.randn(height, width, CHANNELS, dtype=torch.float64)
    reference = partial(reference_generation, window=window, tokens=tokens)
    assert_equal(module, reference, [x], float32=float32)


@pytest.mark.parametrize("part", range(10))
def test_generation_and_recovery_of_100_random_sizes(part):
    for height, width, window, tokens in random_grids(10, seed=part):
        x = torch.randn(height, width, CHANNELS, dtype=torch.float64)
        module = randomized(generation_of(window, tokens, layers=2))
        reference = partial(reference_generation, window=window, tokens=tokens, layers=2)
        assert_equal(module, reference, [x])
        assert_equal(module, reference, [x], float32=True)
        semantic = module.double()(x[None])[0].detach()
        side = None if window is None else 2 * tokens + part % 2
        assert_recovery(x, semantic, window=window, tokens=tokens, side=side)


def assert_recovery(x, semantic, *, window, tokens, side):
    key_windows = KeyWindows(side, queries=window or 1, keys=tokens, border="clip")
    module = randomized(Recovery(spec(), key_windows=key_windows, layer_scale=0.5))

    def reference(x, semantic, weights):
        return paper.recover(
            x,
            semantic,
            weights,
            heads=HEADS,
            window=window,
            tokens_per_window=tokens,
            side=side,
            eps=EPS,
        )

    assert_equal(module, reference, [x, semantic])
    assert_equal(module, reference, [x, semantic], float32=True)


@pytest.mark.parametrize("side", [None, 3, 6, 9])
@pytest.mark.parametrize("size", [(14, 14), (20, 9), (3, 5)], ids=str)
def test_recovery_is_equation_6(size, side):
    x = torch.randn(*size, CHANNELS, dtype=torch.float64)
    counts = [len(PoolingRegions(7, 3).spans(length)) for length in size]
    semantic = torch.randn(*counts, CHANNELS, dtype=torch.float64)
    assert_recovery(x, semantic, window=7, tokens=3, side=side)


@pytest.mark.parametrize("role", ["residual", "keys"])
@pytest.mark.parametrize("grid", [(14, 14, None, 4), (14, 21, 7, 3)], ids=str)
def test_other_roles_of_global_centers(grid, role):
    height, width, window, tokens = grid
    module = randomized(generation_of(window, tokens, layers=2, centers_role=role))
    x = torch.randn(height, width, CHANNELS, dtype=torch.float64)
    reference = partial(
        reference_generation, window=window, tokens=tokens, layers=2, centers_role=role
    )
    assert_equal(module, reference, [x])


def test_global_centers_are_added_to_queries_alone():
    """Both other readings of equation 2 give clearly different values."""
    x = torch.randn(1, 14, 14, CHANNELS, dtype=torch.float64)
    outs = [
        randomized(generation_of(None, 4, layers=2, centers_role=role))(x)
        for role in ("queries", "residual", "keys")
    ]
    for other in outs[1:]:
        assert largest_difference(other, outs[0]) > 1e-3


def test_given_centers_take_the_place_of_pooled_ones():
    module = randomized(generation_of(None, 4, layers=2))
    x = torch.randn(14, 14, CHANNELS, dtype=torch.float64)
    centers = torch.randn(4, 4, CHANNELS, dtype=torch.float64)

    def reference(x, centers, weights):
        return reference_generation(x, weights, None, 4, layers=2, centers=centers)

    assert_equal(module, reference, [x, centers])


def test_without_shortcut_tokens_are_replaced():
    window, tokens = 7, 3
    made = SemanticTokenLayer(
        spec(), key_windows=KeyWindows(10, queries=3, keys=7), shortcut=False, layer_scale=0.5
    )
    module = randomized(made)
    x = torch.randn(14, 14, CHANNELS, dtype=torch.float64)
    semantic = torch.randn(6, 6, CHANNELS, dtype=torch.float64)

    def reference(semantic, x, weights):
        return paper.generation_layer(
            semantic,
            x,
            weights,
            heads=HEADS,
            window=window,
            tokens_per_window=tokens,
            key_window=10,
            semantic_keys=True,
            shortcut=False,
            eps=EPS,
        )

    assert_equal(module, reference, [semantic, x])


@pytest.mark.parametrize("size", [(14, 14), (22, 10), (20, 30)], ids=str)
@pytest.mark.parametrize("side", [14, 21])
def test_centered_key_windows_are_cut_off_at_the_border(size, side):
    """In detection only image tokens are keys (released recipe)."""
    key_windows = KeyWindows(side, queries=3, keys=7, border="clip")
    module = randomized(SemanticTokenLayer(spec(), key_windows=key_windows, semantic_keys=False))
    x = torch.randn(*size, CHANNELS, dtype=torch.float64)
    counts = [len(PoolingRegions(7, 3).spans(length)) for length in size]
    semantic = torch.randn(*counts, CHANNELS, dtype=torch.float64)

    def reference(semantic, x, weights):
        return paper.generation_layer(
            semantic,
            x,
            weights,
            heads=HEADS,
            window=7,
            tokens_per_window=3,
            key_window=side,
            semantic_keys=False,
            border="clip",
            eps=EPS,
        )

    assert_equal(module, reference, [semantic, x])


def test_decoupled_attention_is_equation_3():
    weights = {"qkv.weight": torch.randn(24, 8).double(), "qkv.bias": torch.randn(24).double()}
    tokens, centers, x = (torch.randn(count, 8).double() for count in (4, 4, 9))
    joint, decoupled = paper.decoupled_attention(tokens, centers, x, weights, heads=2)
    assert largest_difference(decoupled, joint) < 1e-12


@pytest.mark.parametrize("size", [(6, 6), (9, 12), (24, 36), (13, 25)], ids=str)
def test_cross_window_connection_sees_the_tokens_of_a_large_window(size):
    """Section 3.2: each 3 x 3 window sees 4 x 4 windows around it; in small grids it sees all."""
    module = CrossWindowAttention(
        CHANNELS, num_heads=HEADS, key_windows=KeyWindows(12, queries=3, keys=3)
    ).double()
    x = torch.randn(*size, CHANNELS, dtype=torch.float64)
    actual = module(x[None, None])[0, 0]
    expected = torch.empty_like(x)
    weights = dict(module.named_parameters())
    for row in range(0, size[0], 3):
        for column in range(0, size[1], 3):
            spans = [
                paper.key_window(start // 3, size=length, window=3, side=12)
                for start, length in zip((row, column), size, strict=True)
            ]
            keys = paper.tokens_in(x, *spans)
            own = x[row : row + 3, column : column + 3]
            out = paper.attend(own.reshape(-1, CHANNELS), keys, keys, weights, heads=HEADS)
            expected[row : row + 3, column : column + 3] = out.view(own.shape)
    assert largest_difference(actual, expected) < 1e-10
    if max(size) <= 12:
        whole = paper.attend(*(x.reshape(-1, CHANNELS),) * 3, weights, heads=HEADS)
        assert largest_difference(actual.flatten(0, 1), whole) < 1e-10
