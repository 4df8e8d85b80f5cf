"""Test the image tokens of each pooled region, and gathering tokens into windows."""

from itertools import product

import pytest
import torch

from stvit_video.models.semantic.key_windows import (
    Span,
    gather_tokens,
    span_indices,
    window_indices,
)
from stvit_video.models.semantic.pooling import PoolingRegions

SEVEN = PoolingRegions(window=7, tokens=3)


@pytest.mark.parametrize(
    ("regions", "size", "expected"),
    [
        (SEVEN, 7, [(0, 3), (2, 5), (4, 7)]),
        (SEVEN, 14, [(0, 3), (2, 5), (4, 7), (7, 10), (9, 12), (11, 14)]),
        (SEVEN, 10, [(0, 3), (2, 5), (4, 7), (7, 10), (9, 10)]),
        (SEVEN, 8, [(0, 3), (2, 5), (4, 7), (7, 8)]),
        (SEVEN, 5, [(0, 3), (2, 5), (4, 5)]),
        (SEVEN, 1, [(0, 1)]),
        (PoolingRegions(window=4, tokens=2), 8, [(0, 2), (2, 4), (4, 6), (6, 8)]),
        (PoolingRegions(window=7, tokens=1), 10, [(0, 7), (7, 10)]),
        (PoolingRegions(window=None, tokens=3), 14, [(0, 5), (4, 10), (9, 14)]),
        (PoolingRegions(window=None, tokens=3), 2, [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_regions(regions, size, expected):
    assert regions.spans(size) == expected


@pytest.mark.parametrize("window", [None, 7, 8])
def test_every_image_token_has_a_region_and_every_region_a_token(window):
    for size, tokens in product(range(1, 30), range(1, 8)):
        spans = PoolingRegions(window=window, tokens=tokens).spans(size)
        assert all(0 <= start < stop <= size for start, stop in spans)
        assert {token for region in spans for token in range(*region)} == set(range(size))


def test_gathered_windows_and_their_gradients_are_those_of_slices():
    rows, columns = (
        [Span(start, start + length) for start in starts]
        for starts, length in (((0, 2, 5), 4), ((0, 3), 5))
    )
    index = window_indices(
        *(
            span_indices(axis, length=axis[0].length, device=torch.device("cpu"))
            for axis in (rows, columns)
        ),
        width=8,
    )
    x = torch.randn(2, 9, 8, 3, dtype=torch.float64, requires_grad=True)
    found = gather_tokens(x.flatten(1, 2), index)
    expected = torch.stack(
        [
            torch.stack([x[:, slice(*row), slice(*column)] for column in columns], dim=1)
            for row in rows
        ],
        dim=1,
    )
    assert torch.equal(found, expected)
    weights = torch.randn_like(expected)
    grads = (torch.autograd.grad(out, x, weights)[0] for out in (found, expected))
    torch.testing.assert_close(*grads)
