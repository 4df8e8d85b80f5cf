"""Test attention maps against the attention weights of the token generation layers."""

from math import prod

import pytest
import torch
from small import small_deit, small_model
from torch import nn

from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.semantic.attention_maps import attention_maps, record_attention_maps
from stvit_video.models.semantic.key_windows import KeyWindows
from stvit_video.models.semantic.stgm import SemanticTokenLayer

IMAGE, SEMANTIC = (9, 8), (4, 4)  # two windows along each axis, the last ones incomplete


def layer_that_gives_its_weights(*, side, border, **options):
    """Return a layer with one-hot values, whose output is its attention weights."""
    count = prod(IMAGE) + prod(SEMANTIC)
    layer = SemanticTokenLayer(
        BlockSpec(2 * count, 2, norm_layer=lambda dim: nn.Identity()),
        key_windows=KeyWindows(side, queries=3, keys=7, border=border),
        shortcut=False,
        **options,
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    one_hot = torch.eye(count, dtype=torch.float64)
    with torch.no_grad():
        layer.attn.qkv.weight[4 * count :] = torch.cat([one_hot, 0 * one_hot], 1).repeat(2, 1)
        layer.attn.qkv.bias[4 * count :] = 0
        layer.attn.proj.weight.copy_(torch.eye(2 * count))
        layer.attn.proj.bias.zero_()
        layer.mlp.fc2.weight.zero_()
        layer.mlp.fc2.bias.zero_()
    tokens = torch.cat([one_hot, 0 * one_hot], 1)[None]
    image = tokens[:, : prod(IMAGE)].unflatten(1, IMAGE)
    return layer, tokens[:, prod(IMAGE) :].unflatten(1, SEMANTIC), image


@pytest.mark.parametrize("role", ["queries", "keys", "residual"])
@pytest.mark.parametrize(
    ("side", "border", "semantic_keys"),
    [(None, "inside", True), (8, "inside", True), (8, "inside", False), (8, "clip", False)],
)
def test_maps_are_the_weights_of_the_values(side, border, semantic_keys, role):
    layer, tokens, image = layer_that_gives_its_weights(
        side=side, border=border, semantic_keys=semantic_keys, centers_role=role
    )
    centers = torch.randn(tokens.shape[1:], dtype=torch.float64)
    for global_centers in (None, centers):
        weights = layer(tokens, image, global_centers).unflatten(-1, (2, -1)).mean(-2)
        expected = weights[..., : prod(IMAGE)].unflatten(-1, IMAGE)
        maps = attention_maps(layer, tokens, image, global_centers)
        torch.testing.assert_close(maps, expected.detach())
        share = maps.sum((-2, -1))
        if semantic_keys:
            assert (share < 1).all()
        else:
            torch.testing.assert_close(share, torch.ones_like(share))


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (lambda: small_model("stvit_swin_t"), [(3, 6, 6, 14, 14)] * 2),
        (
            lambda: small_deit(
                *("STVIT.ENABLE", "True", "DEIT.CLASS_TOKEN", "False", "STVIT.NUM_TOKENS", "16"),
                *("STVIT.LAYOUT", "base 4, stgm 3, semantic 5", "STVIT.KEY_WINDOWS", "(0, 0, 0)"),
            ),
            [(6, 4, 4, 14, 14)] * 3,
        ),
    ],
    ids=["Swin", "DeiT"],
)
def test_each_generation_layer_is_recorded_in_turn(build, shapes):
    model = build().eval()
    video = torch.randn(1, 3, 6, 224, 224)
    with torch.no_grad(), record_attention_maps(model) as maps:
        model(video)
    assert [tuple(each.shape) for each in maps] == shapes
    with torch.no_grad():
        model(video)
    assert len(maps) == len(shapes)
