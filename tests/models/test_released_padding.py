"""Test the released mask of padding, which covers only a corner."""

import pytest
import torch

from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.semantic.key_windows import KeyWindows
from stvit_video.models.semantic.pooling import AveragePooling, MaxPooling, PoolingRegions
from stvit_video.models.semantic.recovery import Recovery
from stvit_video.models.semantic.released import PaddedKeyWindows
from stvit_video.models.semantic.stgm import SemanticTokenLayer

DIM = 8
SIDES = {"side": 14, "queries": 3, "keys": 7}
RECOVERY_SIDES = {"side": 9, "queries": 7, "keys": 3}


def tokens(*shape):
    return torch.randn(*shape, DIM, dtype=torch.float64)


def with_key_windows(*choices, recovers=False):
    """Return layers with the same weights for each choice of key windows."""
    make, options = (Recovery, {}) if recovers else (SemanticTokenLayer, {"semantic_keys": False})
    torch.manual_seed(1)
    layers = [make(BlockSpec(DIM, 2), key_windows=each, **options).double() for each in choices]
    for parameter in layers[0].parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    return layers


def padded(**sides):
    """Return the released key windows with and without their mask, and clipped key windows."""
    recovers = sides["queries"] == 7
    return (
        *(
            PaddedKeyWindows(**sides, image_window=7, recovers=recovers, penalized=penalized)
            for penalized in (True, False)
        ),
        KeyWindows(**sides, border="clip"),
    )


@pytest.mark.parametrize("recovers", [False, True])
def test_the_mask_cancels_where_nothing_is_padded(recovers):
    image, semantic = tokens(1, 14, 21), tokens(1, 6, 9)
    sides = RECOVERY_SIDES if recovers else SIDES
    masked, unmasked, clipped = with_key_windows(*padded(**sides), recovers=recovers)
    operands = (image, semantic) if recovers else (semantic, image)
    found = masked(*operands)
    torch.testing.assert_close(found, unmasked(*operands))
    # Tokens attend to the zeros outside of the grid.
    assert not torch.allclose(found, clipped(*operands))


def test_the_mask_is_right_where_one_side_is_padded():
    # The corner covers all padded columns, 16 to 20.
    image, semantic = tokens(1, 14, 16), tokens(1, 6, 9)
    masked, unmasked, clipped = with_key_windows(*padded(**SIDES))
    found = masked(semantic, image)
    torch.testing.assert_close(found, clipped(semantic, image))
    assert not torch.allclose(found, unmasked(semantic, image))


@pytest.mark.parametrize("pooling", [AveragePooling, MaxPooling])
def test_a_grid_is_padded_with_zeros_before_it_is_pooled(pooling):
    whole = pooling(PoolingRegions(window=7, tokens=3))
    x = tokens(2, 8, 13)
    expected = whole(torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 6)))
    assert torch.equal(pooling(PoolingRegions(window=7, tokens=3), padded=True)(x), expected)
    assert expected.shape == (2, 6, 6, DIM)
