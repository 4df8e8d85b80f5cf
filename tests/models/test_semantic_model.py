"""Test whole models: any number of frames and input size, training and evaluation."""

import pytest
import torch
from brute_force import window_attention
from small import small_model
from torch import nn

from stvit_video.models.layers.attention import WindowAttention
from stvit_video.models.layers.patch import ChannelDoubling, PatchMerging
from stvit_video.models.semantic.stgm import SemanticTokenGeneration

# Batch, channels, frames, rows and columns.
SIZES = [(2, 3, 1, 33, 47), (1, 3, 2, 224, 160), (1, 3, 7, 33, 47), (1, 3, 16, 64, 64)]
# The last layers of the pooling start at zero, so earlier ones have no gradient before a step.
WAITING = tuple(
    f"pooling.{function}.{layer}"
    for function in ("intra", "inter")
    for layer in ("depthwise", "norm")
)


def split_parameters(model):
    """Return the parameters without a gradient before the first step, and the others."""
    parameters = dict(model.named_parameters())
    waiting = {name for name in parameters if any(part in name for part in WAITING)}
    return (
        {name: parameters[name] for name in waiting},
        {name: value for name, value in parameters.items() if name not in waiting},
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["stvit_swin_t", "stvit_swin_s"])
def test_any_size_trains_and_tests(name, size):
    model = small_model(name).train()
    video = torch.randn(size)
    logits = model(video)
    assert logits.shape == (size[0], 5)
    nn.functional.cross_entropy(logits, torch.arange(size[0])).backward()
    waiting, learning = split_parameters(model)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert [name for name, parameter in learning.items() if not parameter.grad.any()] == []
    assert [name for name, parameter in waiting.items() if parameter.grad.any()] == []
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(video), logits.detach(), atol=1e-4, rtol=1e-4)


CHOICES = {
    "average pooling": ("STVIT.POOLING", "average"),
    "max pooling, no global centers": ("STVIT.POOLING", "max", "STVIT.INITIALIZATION", "spatial"),
    "over frames, layer scale": ("STVIT.TEMPORAL_WINDOW", "8", "STVIT.LAYER_SCALE_INIT", "1e-2"),
    "16 tokens, three layers": (
        *("STVIT.NUM_TOKENS", "16", "STVIT.KEY_WINDOWS", "(4, 10, 21)"),
        *("STVIT.LAYOUT", "base 1, stgm 3, semantic 2"),
    ),
    "learned centers": ("STVIT.INITIALIZATION", "global"),
    "a learned position": ("STVIT.INITIALIZATION", "spatial+position"),
    "image tokens alone as keys at first": ("STVIT.SEMANTIC_KEYS", "later"),
    "windows cut off": ("STVIT.SEMANTIC_KEYS", "none", "STVIT.BORDER", "cut"),
    "large windows across windows": ("STVIT.CROSS_WINDOW", "1"),
    "tokens used again": (
        *("SWIN.DEPTHS", "(1, 1, 8, 1)", "STVIT.REUSE_TOKENS", "True"),
        *("STVIT.LAYOUT", "2 x (stgm 2, semantic 1, recovery 1)"),
    ),
    "in the last stage": ("STVIT.STAGE", "4", "STVIT.LAYOUT", "stgm 2"),
    "in the first stage": ("STVIT.STAGE", "1", "STVIT.LAYOUT", "stgm 2"),
    "of images": ("SWIN.WINDOW_SIZE", "(1, 7, 7)", "SWIN.PATCH_SIZE", "(1, 4, 4)"),
}


@pytest.mark.parametrize("overrides", CHOICES.values(), ids=CHOICES)
def test_every_choice_trains(overrides):
    model = small_model("stvit_swin_t", *overrides).train()
    model(torch.randn(2, 3, 6, 40, 56)).square().sum().backward()
    _, learning = split_parameters(model)
    assert [name for name, parameter in learning.items() if not parameter.grad.any()] == []


def test_an_image_is_a_video_of_one_frame():
    model = small_model("stvit_swin_t").eval()
    image = torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        assert torch.equal(model(image), model(image.unsqueeze(2)))


def test_clips_do_not_see_each_other():
    model = small_model("stvit_swin_t", "STVIT.TEMPORAL_WINDOW", "8").eval()
    clips = torch.randn(3, 3, 4, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]), atol=1e-5, rtol=1e-5)


def test_224_pixels_give_36_semantic_tokens_a_frame():
    model = small_model("stvit_swin_t").eval()
    with torch.inference_mode():
        features = model.forward_features(torch.randn(1, 3, 4, 224, 224))
    assert features.shape == (1, 2, 6, 6, 96)


def test_semantic_blocks_see_no_padding():
    # 128 pixels have 8 x 8 image tokens in stage 3, and 4 x 4 semantic tokens in windows of 3.
    model = small_model("stvit_swin_t", "STVIT.TEMPORAL_WINDOW", "2").eval()
    seen = []

    def compare(module, inputs, output):
        expected = window_attention(module, inputs[0], padding=False)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
        seen.append((tuple(output.shape[1:4]), module.window))

    for stage in (2, 3):
        for module in model.stages[stage].modules():
            if isinstance(module, WindowAttention) and module.relative_position_bias_table is None:
                nn.init.normal_(module.qkv.bias)  # so that unmasked padding would change the output
                module.register_forward_hook(compare)
    with torch.inference_mode():
        model(torch.randn(1, 3, 6, 128, 128))
    assert seen == [((3, 4, 4), (2, 3, 3)), ((3, 4, 4), (2, None, None))] * 2


def test_the_layout_becomes_layers_in_the_places_of_the_dense_ones():
    stage = small_model("stvit_swin_s").stages[2].blocks
    assert list(stage._modules) == [str(index) for index in (*range(11), *range(12, 18))]
    assert isinstance(stage[10].module, SemanticTokenGeneration)
    layers = (stage[10].module.first, stage[10].module.second)
    assert [layer.key_windows.side for layer in layers] == [10, 14]
    blocks = dict(stage.named_children())
    dense = [blocks[str(index)].attn for index in range(10)]
    assert [attention.shift for attention in dense] == [(0, 0, 0), (4, 3, 3)] * 5
    assert {attention.window for attention in dense} == {(8, 7, 7)}
    semantic = [blocks[str(index)].attn for index in range(12, 18)]
    assert [attention.window for attention in semantic] == [(1, 3, 3), (1, None, None)] * 3
    assert {attention.shift for attention in semantic} == {(0, 0, 0)}


def test_channels_double_by_merging_before_and_by_a_linear_layer_after():
    stages = small_model("stvit_swin_t").stages
    kinds = [type(stage.downsample) for stage in stages[:3]]
    assert kinds == [PatchMerging, PatchMerging, ChannelDoubling]
    assert not hasattr(stages[3], "downsample")


def test_temporal_windows_of_semantic_tokens_shift_in_global_blocks():
    model = small_model("stvit_swin_t", "STVIT.TEMPORAL_WINDOW", "8")
    attention = [block.attn for block in model.stages[3].blocks]
    assert [one.window for one in attention] == [(8, 3, 3), (8, None, None)]
    assert [one.shift for one in attention] == [(0, 0, 0), (4, 0, 0)]


@pytest.mark.parametrize("name", ["swin_t", "stvit_swin_t"])
def test_drop_path_rises_linearly_from_layer_to_layer(name):
    model = small_model(name, "MODEL.DROPCONNECT_RATE", "0.11")
    rates = [
        getattr(module.drop, "p", 0.0)
        for path, module in model.named_modules()
        if path.endswith("residual2")
    ]
    assert rates == pytest.approx([0.01 * index for index in range(12)])
