"""Queries that see a centred window of another grid, against attention with an explicit mask."""

import pytest
import torch

from stvit_video.models.layers import pieces
from stvit_video.models.layers.attention import Attention
from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.semantic.maps import attention_maps
from stvit_video.models.semantic.reach import CentredReach, CentredWindow, Reach
from stvit_video.models.semantic.regions import Windows
from stvit_video.models.semantic.released import PaddedReach
from stvit_video.models.semantic.stgm import SemanticTokenLayer

DIM = 8
GENERATION = CentredWindow(side=14, queries=3, keys=7)
RECOVERY = CentredWindow(side=9, queries=7, keys=3)
# A window, and the sizes of the grids of queries and of keys.
CASES = [
    (GENERATION, (6, 9), (14, 21)),
    (GENERATION, (6, 7), (12, 16)),
    (CentredWindow(side=21, queries=3, keys=7), (10, 3), (22, 5)),
    (CentredWindow(side=7, queries=3, keys=7), (4, 5), (8, 9)),
    (CentredWindow(side=8, queries=3, keys=7), (1, 12), (1, 28)),
    (RECOVERY, (14, 21), (6, 9)),
    (RECOVERY, (33, 12), (15, 6)),
    (CentredWindow(side=4, queries=7, keys=3), (23, 8), (10, 4)),
]


@pytest.fixture
def attn():
    attention = Attention(DIM, num_heads=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


@pytest.fixture
def norm():
    layer = torch.nn.LayerNorm(DIM).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def tokens(*shape):
    return torch.randn(*shape, DIM, dtype=torch.float64)


def seen_along(window, queries, keys):
    """Which keys of an axis each query sees: bool ``[queries, keys]``."""
    rows = []
    for query in range(queries):
        start = query // window.queries * window.keys - (window.side - window.keys) // 2
        rows.append([start <= key < start + window.side for key in range(keys)])
    return torch.tensor(rows)


def masked_attention(attn, norm, queries, keys, seen):
    """Attention of all queries to the keys that a bool mask ``[H W, h w]`` lets them see."""
    q = attn.project_queries(norm(queries)).flatten(1, 2)
    keys_values = attn.project_keys_values(norm(keys)).flatten(1, 2)
    logits = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, float("-inf"))
    return attn.attend(q, keys_values, mask=logits[None, None]).view_as(queries)


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize(("window", "size", "key_size"), CASES)
def test_padding_however_much_and_of_whatever_changes_nothing(
    attn, norm, window, size, key_size, padding
):
    queries, keys = tokens(2, *size), tokens(2, *key_size)
    found = CentredReach(window)(attn, norm, queries, keys)
    more = (0, 0, 0, padding, 0, padding)
    padded = torch.nn.functional.pad(keys, more, value=1e4)
    seen = [
        seen_along(window, *sizes) & (torch.arange(sizes[1]) < real)
        for sizes, real in zip(zip(size, padded.shape[1:3], strict=True), key_size, strict=True)
    ]
    both = (seen[0][:, None, :, None] & seen[1][None, :, None, :]).flatten(2).flatten(0, 1)
    expected = masked_attention(attn, norm, queries, padded, both)
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_the_mask(attn, norm):
    window, size, key_size = CASES[6]
    queries, keys = tokens(1, *size).requires_grad_(), tokens(1, *key_size).requires_grad_()
    seen = [seen_along(window, *sizes) for sizes in zip(size, key_size, strict=True)]
    both = (seen[0][:, None, :, None] & seen[1][None, :, None, :]).flatten(2).flatten(0, 1)
    weights = tokens(1, *size)
    inputs = [queries, keys, *attn.parameters(), *norm.parameters()]
    found = CentredReach(window)(attn, norm, queries, keys)
    expected = masked_attention(attn, norm, queries, keys, both)
    grads = (torch.autograd.grad((x * weights).sum(), inputs) for x in (found, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_window_every_key_is_seen(attn, norm):
    queries, keys = tokens(2, 5, 4), tokens(2, 3, 7)
    everything = torch.ones(20, 21, dtype=torch.bool)
    expected = masked_attention(attn, norm, queries, keys, everything)
    torch.testing.assert_close(Reach()(attn, norm, queries, keys), expected)
    wide = CentredReach(CentredWindow(side=99, queries=7, keys=3))
    torch.testing.assert_close(wide(attn, norm, queries, keys), expected)


def test_attention_maps_are_of_the_keys_that_are_seen():
    layer = SemanticTokenLayer(
        BlockSpec(DIM, 2),
        windows=Windows(window=7, tokens=3),
        key_window=None,
        semantic_keys=False,
        reach=CentredReach(GENERATION),
    ).double()
    maps = attention_maps(layer, tokens(2, 6, 7), tokens(2, 12, 16))
    rows, columns = seen_along(GENERATION, 6, 12), seen_along(GENERATION, 7, 16)
    assert torch.equal(maps[0] > 0, rows[:, None, :, None] & columns[None, :, None, :])
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 6, 7, dtype=torch.float64))


def test_frame_by_frame_it_is_the_same(attn, norm, monkeypatch):
    queries, keys = tokens(2, 33, 23), tokens(2, 15, 10)
    reach = CentredReach(RECOVERY)
    expected = reach(attn, norm, queries, keys).detach()
    calls = []
    real = attn.gather
    monkeypatch.setattr(
        attn, "gather", lambda q, *rest, **mask: calls.append(len(q)) or real(q, *rest, **mask)
    )
    with torch.no_grad():
        reach(attn, norm, queries, keys)
    whole = len(calls)
    monkeypatch.setattr(pieces, "_NUMBERS", 1)
    with torch.no_grad():
        found = reach(attn, norm, queries, keys)
    torch.testing.assert_close(found, expected)
    assert len(calls) == 3 * whole
    assert sum(calls[:whole]) == sum(calls[whole:]) == 2 * 5 * 4  # all windows of both frames


def padded_reaches(window, *, recovers):
    return [
        PaddedReach(window, image_window=7, recovers=recovers, penalty=penalty)
        for penalty in (True, False)
    ]


@pytest.mark.parametrize("recovers", [False, True])
def test_the_released_mask_cancels_where_nothing_is_padded(attn, norm, recovers):
    image, semantic = tokens(1, 14, 21), tokens(1, 6, 9)
    window, operands = (
        (RECOVERY, (image, semantic)) if recovers else (GENERATION, (semantic, image))
    )
    masked, unmasked = padded_reaches(window, recovers=recovers)
    found = masked(attn, norm, *operands)
    torch.testing.assert_close(found, unmasked(attn, norm, *operands))
    # Zeros outside then take part.
    assert not torch.allclose(found, CentredReach(window)(attn, norm, *operands))


def test_the_released_mask_is_right_where_one_side_is_padded(attn, norm):
    # The corner is then all of that side's padding: columns 16 to 20.
    image, semantic = tokens(1, 14, 16), tokens(1, 6, 9)
    masked, unmasked = padded_reaches(GENERATION, recovers=False)
    found = masked(attn, norm, semantic, image)
    torch.testing.assert_close(found, CentredReach(GENERATION)(attn, norm, semantic, image))
    assert not torch.allclose(found, unmasked(attn, norm, semantic, image))
