"""Test the layers that a stage has for a layout."""

import pytest
import torch
from small import imagenet_model, small_model
from torch import nn

from stvit_video.models.semantic.recovery import DumbbellUnit
from stvit_video.models.semantic.stgm import SemanticTokenGeneration

SMALL = (
    *("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5"),
    *("MODEL.DROPCONNECT_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0"),
)


def generations(model):
    return [part for part in model.modules() if isinstance(part, SemanticTokenGeneration)]


def test_the_released_layout():
    blocks = dict(imagenet_model("stvit_r_swin_s", *SMALL).stages[2].blocks.named_children())
    assert list(blocks) == ["0", "1", "6", "7", "12", "13"]
    for first in (1, 7, 13):
        unit = blocks[str(first)]
        assert isinstance(unit, DumbbellUnit)
        layers = (unit.generation.module.first, unit.generation.module.second)
        assert [layer.key_windows.side for layer in layers] == [10, 14]
        assert [layer.shortcut for layer in layers] == [False, True]
        names = [name for name, _ in unit.semantic.named_children()]
        assert names == [str(first + 2), str(first + 3)]
        assert [block.attn.window for block in unit.semantic] == [(1, 3, 3), (1, None, None)]
        assert list(unit.recovery) == [str(first + 4)]
    assert {blocks[name].attn.shift for name in ("0", "6", "12")} == {(0, 0, 0)}


def test_units_may_be_without_layers_on_semantic_tokens():
    layout = ("SWIN.DEPTHS", "(1, 1, 4, 1)", "STVIT.LAYOUT", "stgm 3, recovery 1")
    model = imagenet_model("stvit_r_swin_t", *SMALL, *layout, "STVIT.KEY_WINDOWS", "(7, 10, 14)")
    (unit,) = model.stages[2].blocks
    assert (len(unit.generation.module.further), len(unit.semantic)) == (1, 0)
    assert model.forward_features(torch.randn(1, 3, 70, 64)).shape == (1, 1, 3, 2, 96)


@pytest.mark.parametrize(
    ("overrides", "shapes"),
    [
        ((), [(6, 6, 48)] * 3),
        # 10 x 10 image tokens are rounded up to complete windows.
        (("DATA.TRAIN_CROP_SIZE", "160"), [(6, 6, 48)] * 3),
        (("STVIT.GLOBAL_WINDOWS", "1"), [(3, 3, 48)] * 3),
        (("STVIT.RELEASED_GLOBAL", "True"), [(6, 6, 48), None, None]),
        (("STVIT.INITIALIZATION", "spatial"), [None] * 3),
        (("STVIT.INITIALIZATION", "spatial+position"), [(6, 6, 48)] * 3),
    ],
)
def test_global_centers_are_those_of_all_windows_of_each_unit(overrides, shapes):
    initialization = ("STVIT.INITIALIZATION", "spatial+global")
    model = imagenet_model("stvit_r_swin_s", *SMALL, *initialization, *overrides)
    centers = [generation.global_centers for generation in generations(model)]
    assert [None if each is None else tuple(each.shape) for each in centers] == shapes


@pytest.mark.parametrize("name", ["stvit_swin_t", "stvit_swin_s"])
def test_a_video_has_the_global_centers_of_a_frame(name):
    (generation,) = generations(small_model(name))
    assert generation.global_centers.shape == (6, 6, 48)


def test_reused_tokens_are_pooled_once_and_generated_in_each_unit():
    overrides = ("STVIT.REUSE_TOKENS", "True", "STVIT.POOLING", "intra_inter")
    model = imagenet_model("stvit_r_swin_s", *SMALL, *overrides).eval()
    pooled = [generation.pooling is not None for generation in generations(model)]
    assert pooled == [True, False, False]
    stage = model.stages[2].blocks
    # A layer scale of 1e-5 would hide the effect of the semantic tokens.
    for name, parameter in stage.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    base_0, unit_0, base_1, unit_1, base_2, unit_2 = stage
    x = torch.randn(1, 2, 14, 14, 48)
    with torch.no_grad():
        found = stage(x)
        x = base_0(x)
        reused = unit_0.generation(x)
        x = base_1(unit_0(x))
        x = base_2(unit_1.recover(x, unit_1.generation(x, reused)))
        expected = unit_2.recover(x, unit_2.generation(x, reused))
    torch.testing.assert_close(found, expected)
    found = stage(torch.randn(1, 2, 14, 14, 48))
    found.square().sum().backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())
