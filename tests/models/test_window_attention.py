"""Test window attention against its definition."""

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
    """Return an attention in double precision with biases as large as its logits."""
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
    # The grid is padded to 4, 6, 6 and rolled by one token along each axis, so only the last column
    # shares a window with padding that the shift mask does not hide.
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


def test_low_precision_is_close():
    module, x = make(), grids(3, 4, 5)
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module.float()(x.float())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), exact, atol=0.1, rtol=0.1)


def test_training_follows_inference_mode():
    module, x = make(), grids(3, 4, 7)
    with torch.inference_mode():
        seen = module(x)
    out = module(x)
    torch.testing.assert_close(out.detach(), seen)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
