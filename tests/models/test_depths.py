"""Test the layer depths of parameters, which layer-wise learning rates depend on."""

import pytest
from small import small_deit, small_model

from stvit_video.models.depths import dense_name


def test_depths_of_a_dense_model():
    depths = small_model("swin_t").parameter_depths()  # 2, 2, 6 and 2 layers
    assert depths["patch_embed.proj.weight"] == depths["patch_embed.norm.bias"] == 0
    firsts = [1, 3, 5, 11]
    for stage, first in enumerate(firsts):
        assert depths[f"stages.{stage}.blocks.0.attn.qkv.weight"] == first
        assert depths[f"stages.{stage}.blocks.1.mlp.fc2.bias"] == first + 1
    # Patch merging belongs to the stage after it.
    for stage, first in enumerate(firsts[1:]):
        assert depths[f"stages.{stage}.downsample.reduction.weight"] == first
    assert depths["stages.2.blocks.5.norm1.weight"] == 10
    assert depths["stages.3.blocks.1.norm1.weight"] == 12
    assert depths["norm.weight"] == depths["head.fc.weight"] == 13


MODELS = {
    **{name: lambda name=name: small_model(name) for name in ("swin_t", "stvit_swin_t")},
    "conv stem": lambda: small_model("swin_t", "SWIN.STEM", "conv", "SWIN.PATCH_SIZE", "(1, 4, 4)"),
    "stvit_r": lambda: small_model("stvit_r_swin_t"),
    "four layers of generation": lambda: small_model(
        "stvit_swin_t",
        *("STVIT.LAYOUT", "base 1, stgm 4, semantic 1", "STVIT.KEY_WINDOWS", "(7, 10, 14, 14)"),
    ),
    "reusing": lambda: small_model(
        "stvit_r_swin_t",
        *("SWIN.DEPTHS", "(2, 2, 8, 2)", "STVIT.REUSE_TOKENS", "True"),
        *("STVIT.LAYOUT", "2 x (stgm 2, semantic 1, recovery 1)"),
    ),
    "deit": small_deit,
    "stvit_deit": lambda: small_deit("DEIT.CLASS_TOKEN", "False", "STVIT.ENABLE", "True"),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_parameter_has_a_depth_and_every_depth_a_parameter(build):
    model = build()
    depths = model.parameter_depths()
    assert depths.keys() == {name for name, _ in model.named_parameters()}
    assert set(depths.values()) == set(range(max(depths.values()) + 1))


def test_depths_of_a_deit():
    depths = small_deit().parameter_depths()  # 12 layers
    assert depths["patch_embed.proj.weight"] == depths["position.table"] == 0
    assert depths["blocks.0.norm1.weight"] == 1
    assert depths["blocks.11.mlp.fc2.weight"] == 12
    assert depths["norm.weight"] == depths["head.fc.weight"] == 13


def test_generation_layers_have_the_depths_of_the_dense_layers_in_their_places():
    dense = small_model("swin_t").parameter_depths()
    semantic = small_model("stvit_swin_t").parameter_depths()  # base 2, stgm 2, semantic 2
    shared = dense.keys() & semantic.keys()
    assert len(shared) > 100
    assert all(semantic[name] == dense[name] for name in shared)
    for index, layer in enumerate(("first", "second")):
        name = f"stages.2.blocks.2.module.{layer}.attn.qkv.weight"
        assert semantic[name] == dense[f"stages.2.blocks.{2 + index}.attn.qkv.weight"]
    first = dense["stages.2.blocks.2.attn.qkv.weight"]
    assert semantic["stages.2.blocks.2.module.global_centers"] == first
    assert semantic["stages.2.blocks.2.module.pooling.intra.norm.weight"] == first


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        ("blocks.3.module.second.norm1.bias", "blocks.4.norm1.bias"),
        ("stages.2.blocks.7.generation.module.first.attn.qkv.bias", "7.attn.qkv.bias"),
        ("stages.2.blocks.7.generation.module.second.mlp.fc1.bias", "8.mlp.fc1.bias"),
        ("stages.2.blocks.7.semantic.10.attn.qkv.bias", "10.attn.qkv.bias"),
        ("stages.2.blocks.7.recovery.11.module.norm2.bias", "11.norm2.bias"),
        ("stages.2.blocks.7.generation.module.further.1.norm2.bias", "10.norm2.bias"),
        ("backbone.body.stages.2.blocks.1.semantic.3.norm1.bias", "3.norm1.bias"),
    ],
)
def test_every_layer_has_the_name_of_a_dense_one(name, dense):
    stage = name.partition("blocks.")[0]
    assert dense_name(name) == f"{stage}blocks.{dense.removeprefix('blocks.')}"


def test_what_is_no_part_of_a_block_has_no_dense_name():
    assert dense_name("stages.2.downsample.norm.weight") is None
    assert dense_name("patch_embed.convs.0.weight") is None
