"""Window attention against its definition, and what it keeps between two calls."""

import copy
import pickle

import pytest
import torch
from brute_force import window_attention
from torch.func import functional_call

from stvit_video.models.layers.attention import WindowAttention

TABLE = "relative_position_bias_table"
CASES = [
    # grid, window, shift
    ((4, 6, 6), (2, 3, 3), (0, 0, 0)),
    ((4, 6, 6), (2, 3, 3), (1, 1, 1)),
    ((3, 4, 5), (2, 3, 3), (0, 0, 0)),
    ((3, 4, 5), (2, 3, 3), (1, 1, 1)),
    ((3, 4, 5), (2, 3, 2), (1, 2, 1)),
    ((2, 3, 7), (2, 3, 3), (1, 1, 1)),
    ((1, 4, 4), (2, 3, 3), (1, 1, 1)),
    ((3, 2, 2), (4, 3, 3), (2, 1, 1)),
    ((1, 1, 1), (2, 3, 3), (1, 1, 1)),
]


def make(*, window=(2, 3, 3), shift=(1, 1, 1), **options):
    """An attention in double precision whose biases are as large as its logits."""
    module = WindowAttention(8, num_heads=2, window=window, shift=shift, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def grids(*sizes, batch=2):
    return torch.randn(batch, *sizes, 8, dtype=torch.float64)


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize(("grid", "window", "shift"), CASES)
def test_it_is_attention_inside_windows(grid, window, shift, mask_padding):
    module = make(window=window, shift=shift, mask_padding=mask_padding)
    x = grids(*grid)
    expected = window_attention(module, x, padding=not mask_padding)
    torch.testing.assert_close(module(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("grid", [(1, 6, 6), (3, 5, 4), (4, 2, 7)])
@pytest.mark.parametrize("window", [(1, 3, 3), (1, None, None), (2, None, None), (2, 3, 3)])
def test_without_position_bias_a_window_may_cover_an_axis(grid, window):
    shift = (1, 0, 0) if window[0] == 2 else (0, 0, 0)
    module = make(window=window, shift=shift, position_bias=False, mask_padding=True)
    x = grids(*grid)
    torch.testing.assert_close(module(x), window_attention(module, x, padding=False))


def test_padding_is_seen_only_where_it_is_not_masked():
    x = grids(3, 4, 5)
    masked, released = (make(mask_padding=choice) for choice in (True, False))
    released.load_state_dict(masked.state_dict())
    difference = (masked(x) - released(x)).abs().amax(dim=(0, 4))
    # Padded to 4, 6, 6 and cut behind the first token of each axis: with a token of padding in its
    # window, and not on the other side of an edge, is the last column alone.
    assert difference[..., :4].max() < 1e-12
    assert difference[..., 4].min() > 1e-3


@pytest.mark.parametrize("mask_padding", [False, True])
def test_gradients_are_those_of_the_definition(mask_padding):
    module = make(mask_padding=mask_padding)
    x = grids(3, 4, 5).requires_grad_()
    weights = torch.randn_like(x)
    inputs = [x, *module.parameters()]
    found = torch.autograd.grad((module(x) * weights).sum(), inputs)
    by_definition = window_attention(module, x, padding=not mask_padding)
    expected = torch.autograd.grad((by_definition * weights).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck():
    module = WindowAttention(4, num_heads=2, window=(2, 2, 2), shift=(1, 1, 1)).double()
    x = torch.randn(1, 2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(27, 2, dtype=torch.float64, requires_grad=True)

    def attend(x, table):
        return functional_call(module, {TABLE: table}, x)

    assert torch.autograd.gradcheck(attend, (x, table))


def fresh_result(module, x):
    """What a module with the same weights and no memory gives."""
    other = WindowAttention(8, num_heads=2, window=module.window, shift=module.shift).to(x.dtype)
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        return other(x)


@pytest.mark.parametrize("no_gradients", [torch.no_grad, torch.inference_mode])
def test_results_follow_the_weights(no_gradients):
    module, x = make(), grids(3, 4, 5)
    with no_gradients():
        first = module(x)
        assert torch.equal(module(x), first)
        getattr(module, TABLE).mul_(3)
        scaled = module(x)
        assert torch.equal(scaled, fresh_result(module, x))
        module.load_state_dict(make().state_dict())
        loaded = module(x)
        assert torch.equal(loaded, fresh_result(module, x))
    assert not torch.allclose(first, scaled)
    assert not torch.allclose(scaled, loaded)


def test_results_follow_an_optimizer():
    module, x = make(), grids(3, 4, 5)
    optimizer = torch.optim.SGD([getattr(module, TABLE)], lr=10)
    with torch.no_grad():
        before = module(x)
    module(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = module(x)
    assert torch.equal(after, fresh_result(module, x))
    assert not torch.allclose(before, after)


def test_results_follow_a_table_that_takes_the_place_of_another_in_memory():
    module, x = make(), grids(3, 4, 5)
    setattr(module, TABLE, torch.nn.Parameter(torch.randn(75, 2, dtype=torch.float64)))
    with torch.no_grad():
        module(x)
    address = getattr(module, TABLE).data_ptr()
    setattr(module, TABLE, None)
    tables = []
    while not tables or (tables[-1].data_ptr() != address and len(tables) < 100):
        tables.append(torch.randn(75, 2, dtype=torch.float64))
    setattr(module, TABLE, torch.nn.Parameter(tables[-1]))
    with torch.no_grad():
        assert torch.equal(module(x), fresh_result(module, x))


def test_results_follow_size_and_batch():
    module = make()
    with torch.no_grad():
        for x in (grids(3, 4, 5), grids(3, 4, 5, batch=3), grids(2, 6, 6), grids(3, 4, 5)):
            assert torch.equal(module(x), fresh_result(module, x))


def test_results_follow_the_precision():
    module, x = make(), grids(3, 4, 5)
    with torch.no_grad():
        exact = module(x)
        module.float()
        x = x.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = module(x)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.double(), exact, atol=0.1, rtol=0.1)
        assert torch.equal(module(x), fresh_result(module, x))
        torch.testing.assert_close(module(x).double(), exact, atol=1e-4, rtol=1e-4)


def test_training_follows_inference_mode():
    module, x = make(), grids(3, 4, 7)  # a size that no other test has planned
    with torch.inference_mode():
        seen = module(x)
    out = module(x)
    torch.testing.assert_close(out.detach(), seen)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_model_made_in_inference_mode_works():
    with torch.inference_mode():
        module, x = make(), grids(3, 4, 5)
        first = module(x)
        getattr(module, TABLE).mul_(3)
        assert torch.equal(module(x), fresh_result(module, x))
        assert not torch.allclose(module(x), first)


@pytest.mark.parametrize("no_gradients", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]
)
def test_a_used_module_can_be_copied(no_gradients, duplicate):
    module, x = make(), grids(3, 4, 5)
    with no_gradients():
        expected = module(x)
    twin = duplicate(module)
    with torch.no_grad():
        assert torch.equal(twin(x), expected)
        getattr(twin, TABLE).add_(torch.randn(75, 2))
        assert torch.equal(twin(x), fresh_result(twin, x))
        assert torch.equal(module(x), expected)
