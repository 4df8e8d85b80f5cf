"""Dumbbell units: what they compute, for any size, and that padding would change nothing."""

import pytest
import torch
from small import imagenet_model, small_model
from test_reach import masked_attention, seen_along
from torch import nn

from stvit_video.errors import UserError
from stvit_video.models.layers.block import BlockSpec
from stvit_video.models.layers.frames import PerFrame
from stvit_video.models.semantic.assembly import layout_blocks
from stvit_video.models.semantic.dumbbell import DumbbellUnit, ReusingDumbbells
from stvit_video.models.semantic.layout import parse_layout
from stvit_video.models.semantic.pooling import AdaptiveMaxPooling
from stvit_video.models.semantic.reach import CentredReach, CentredWindow
from stvit_video.models.semantic.regions import Windows
from stvit_video.models.semantic.stage import Reaches, SemanticSpec
from stvit_video.models.semantic.stgm import SemanticTokenGeneration

UNIT = "stgm 2, semantic 2, recovery 1"
REUSING = "base 1, stgm 2, semantic 2, recovery 1, 2 x (base 1, semantic 4, recovery 1)"
DETECTION = (
    *("STVIT.BORDER", "cut", "STVIT.SEMANTIC_KEYS", "none", "STVIT.SHORTCUT", "True"),
    *("STVIT.KEY_WINDOWS", "(14, 21)", "STVIT.RECOVERY_WINDOW", "27"),
)
SMALL = (
    *("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5"),
    *("MODEL.DROPCONNECT_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0"),
)


def make_unit(
    *, window=7, tokens=3, sides=(14, 21), recovery=9, dim=8, shortcut=True, border="cut"
):
    """A dumbbell unit in double precision, its layer scale too large to be overlooked."""
    windows = Windows(window=window, tokens=tokens)
    reaches = Reaches(
        generation=tuple(
            CentredReach(CentredWindow(side=side, queries=tokens, keys=window)) for side in sides
        ),
        recovery=CentredReach(CentredWindow(side=recovery, queries=window, keys=tokens)),
    )
    semantic = SemanticSpec(
        stage=0,
        units=parse_layout(UNIT, depth=5),
        windows=windows,
        pooling=lambda windows, dim: AdaptiveMaxPooling(windows),
        key_windows=sides,
        semantic_keys=(border != "cut",) * 2,
        reaches=reaches if border == "cut" else Reaches(),
        global_centers=False,
        layer_scale=0.5,
        shortcut=shortcut,
    )
    blocks = layout_blocks(semantic, spec=BlockSpec(dim, 2), window=(1, 7, 7), drop_paths=[0.0] * 5)
    ((name, unit),) = blocks.items()
    assert name == "0"
    for parameter in unit.double().parameters():
        nn.init.normal_(parameter, std=0.4)
    return unit


def tokens(*shape, dim=8):
    return torch.randn(*shape, dim, dtype=torch.float64)


def padded_unit(unit, x, *, windows):
    """The unit on one frame ``[H, W, C]`` that is padded by so many windows, all masked."""
    generation, recovery = unit.generation.module, unit.recovery["4"].module
    (height, width), full = x.shape[:2], []
    for size in x.shape[:2]:
        full.append((-(-size // 7) + windows) * 7)
    image = torch.full((*full, x.shape[-1]), 50.0, dtype=x.dtype)
    image[:height, :width] = x
    real = torch.zeros(full, dtype=torch.bool)
    real[:height, :width] = True
    centers, exists = [], []
    for rows in Windows(7, 3).regions(full[0]):
        for columns in Windows(7, 3).regions(full[1]):
            box = (slice(*rows), slice(*columns))
            exists.append(bool(real[box].any()))
            centers.append(
                image[box][real[box]].amax(0) if exists[-1] else torch.zeros_like(x[0, 0])
            )
    size = (full[0] // 7 * 3, full[1] // 7 * 3)
    semantic, exists = torch.stack(centers).view(1, *size, -1), torch.tensor(exists)
    image = image[None]
    for layer in generation.layers:
        seen = both_axes(layer.reach.window, size, full) & real.flatten()
        semantic = step(layer, semantic, image, seen)
    local = torch.arange(size[0])[:, None] // 3 * size[1] + torch.arange(size[1]) // 3
    for block, same in zip(
        unit.semantic, (local.flatten(), torch.zeros(size).flatten()), strict=True
    ):
        semantic = step(block, semantic, semantic, (same[:, None] == same) & exists)
    seen = both_axes(recovery.reach.window, full, size) & exists
    return step(recovery, image, semantic, seen)[0, :height, :width]


def both_axes(window, queries, keys):
    rows, columns = (seen_along(window, *sizes) for sizes in zip(queries, keys, strict=True))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def step(layer, queries, keys, seen):
    # Padding that sees nothing would be NaN; what it gets does not matter, for none sees it.
    seen = seen | ~seen.any(1, keepdim=True)
    attended = masked_attention(layer.attn, layer.norm1, queries, keys, seen)
    x = queries + layer.residual1(attended)
    return x + layer.residual2(layer.mlp(layer.norm2(x)))


@pytest.mark.parametrize("size", [(14, 21), (12, 16), (5, 30), (1, 8), (22, 9)])
def test_growing_the_padding_changes_nothing(size):
    unit = make_unit()
    frame = tokens(*size)
    found = unit(frame[None, None])[0, 0]
    assert found.shape == frame.shape
    for windows in (0, 1, 3):
        torch.testing.assert_close(found, padded_unit(unit, frame, windows=windows))


def random_sizes(count, low, high):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(low, high, (count, 2), generator=draw).tolist()


@pytest.mark.parametrize("border", ["move", "cut"])
def test_a_unit_keeps_any_size_of_grid(border):
    unit = make_unit(border=border)
    for height, width in random_sizes(60, 1, 40):
        grid = tokens(1, 2, height, width)
        with torch.no_grad():
            found = unit(grid)
        assert found.shape == grid.shape
        assert found.isfinite().all()


@pytest.mark.parametrize("overrides", [(), DETECTION], ids=["classification", "detection"])
def test_a_pyramid_has_the_strides_4_8_16_and_32_at_any_size(overrides):
    model = imagenet_model("stvit_r_swin_t", *SMALL, *overrides).eval()
    for height, width in random_sizes(60, 1, 300):
        with torch.inference_mode():
            grids = model.forward_pyramid(torch.randn(1, 3, height, width))
        assert [tuple(grid.shape) for grid in grids] == [
            (1, 1, -(-height // stride), -(-width // stride), 3 * stride)
            for stride in (4, 8, 16, 32)
        ]
        assert all(grid.isfinite().all() for grid in grids)


@pytest.mark.parametrize("name", ["stvit_swin_t", "stvit_swin_s"])
def test_semantic_tokens_make_no_pyramid(name):
    with pytest.raises(UserError, match=r"^A pyramid needs image tokens .* end it with recovery"):
        small_model(name).forward_pyramid(torch.zeros(1, 3, 4, 32, 32))


def test_videos_keep_their_resolution_frame_by_frame():
    model = small_model("stvit_r_swin_t").eval()
    video = torch.randn(1, 3, 8, 70, 64)
    with torch.inference_mode():
        grids = model.forward_pyramid(video)
        features = model.forward_features(video)
    assert [tuple(grid.shape[1:4]) for grid in grids] == [
        (4, 18, 16),
        (4, 9, 8),
        (4, 5, 4),
        (4, 3, 2),
    ]
    assert features.shape == (1, 4, 3, 2, 96)


def test_frames_do_not_see_each_other():
    unit = make_unit()
    video = tokens(2, 3, 9, 15)
    found = unit(video)
    for clip in range(2):
        for frame in range(3):
            alone = unit(video[clip : clip + 1, frame : frame + 1])
            torch.testing.assert_close(found[clip, frame], alone[0, 0])


@pytest.mark.parametrize("options", [{}, {"shortcut": False, "border": "move"}])
def test_gradcheck(options):
    unit = make_unit(window=3, tokens=2, sides=(4, 6), recovery=3, dim=4, **options)
    x = tokens(1, 1, 5, 3, dim=4).requires_grad_()
    assert torch.autograd.gradcheck(unit, (x,))
    generation, recovery = unit.generation.module, unit.recovery["4"].module
    image, semantic = tokens(1, 4, 3, dim=4).requires_grad_(), tokens(1, 3, 2, dim=4)
    assert torch.autograd.gradcheck(generation, (image,))
    assert torch.autograd.gradcheck(recovery, (image, semantic.requires_grad_()))


@pytest.mark.parametrize("overrides", [(), DETECTION], ids=["classification", "detection"])
def test_two_runs_are_the_same_to_the_last_bit(overrides):
    def run():
        torch.manual_seed(3)
        model = imagenet_model("stvit_r_swin_t", *SMALL[:4], *overrides).train()
        logits = model(torch.randn(2, 3, 100, 130))
        logits.square().sum().backward()
        return [logits, *(parameter.grad for parameter in model.parameters())]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


def test_layer_scale_zero_leaves_the_image_tokens_as_they_are():
    unit = make_unit()
    for layer in unit.recovery.values():
        for residual in (layer.module.residual1, layer.module.residual2):
            nn.init.zeros_(residual.scale.gamma)
    grid = tokens(1, 2, 9, 9)
    assert torch.equal(unit(grid), grid)


def test_without_shortcut_pooled_centres_are_only_asked_with():
    with_one, without = make_unit(), make_unit(shortcut=False)
    without.load_state_dict(with_one.state_dict())
    first = [unit.generation.module.layers[0] for unit in (with_one, without)]
    image, semantic = tokens(1, 14, 14), tokens(1, 6, 6)
    assert not torch.allclose(*(layer(semantic, image) for layer in first))
    for layer in first:
        nn.init.zeros_(layer.residual1.scale.gamma)
        nn.init.zeros_(layer.residual2.scale.gamma)
    assert torch.equal(first[0](semantic, image), semantic)
    assert not first[1](semantic, image).any()


def test_the_released_layout():
    blocks = dict(imagenet_model("stvit_r_swin_s", *SMALL).stages[2].blocks.named_children())
    assert list(blocks) == ["0", "1", "6", "7", "12", "13"]
    for first in (1, 7, 13):
        unit = blocks[str(first)]
        assert isinstance(unit, DumbbellUnit)
        assert [layer.key_window for layer in unit.generation.module.layers] == [10, 14]
        assert [layer.shortcut for layer in unit.generation.module.layers] == [False, True]
        names = [name for name, _ in unit.semantic.named_children()]
        assert names == [str(first + 2), str(first + 3)]
        assert [block.attn.window for block in unit.semantic] == [(1, 3, 3), (1, None, None)]
        assert list(unit.recovery) == [str(first + 4)]
    assert {blocks[name].attn.shift for name in ("0", "6", "12")} == {(0, 0, 0)}


def test_global_centres_are_those_of_the_first_unit():
    overrides = ("STVIT.INITIALIZATION", "spatial+global", "STVIT.GLOBAL_WINDOWS", "2")
    model = imagenet_model("stvit_r_swin_s", *SMALL, *overrides)
    found = [name for name, _ in model.named_parameters() if "global_centers" in name]
    assert found == ["stages.2.blocks.1.generation.module.global_centers"]
    assert model.get_parameter(found[0]).shape == (6, 6, 48)


def test_reused_semantic_tokens_are_generated_once():
    model = imagenet_model("stvit_r_swin_s", *SMALL, "STVIT.LAYOUT", REUSING).eval()
    stage = model.stages[2].blocks
    assert [type(part) for part in stage][1:] == [ReusingDumbbells]
    generations = [m for m in stage.modules() if isinstance(m, SemanticTokenGeneration)]
    assert len(generations) == 1
    units = stage[1]
    # Layer scale of 1e-5 would hide what the semantic tokens do.
    for name, parameter in units.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    grid = torch.randn(1, 1, 14, 14, 48)
    with torch.no_grad():
        x, semantic = units.first.exchange(grid)
        for unit in units.others:
            x = unit.base(x)
            semantic = unit.semantic(semantic)
            (layer,) = unit.recovery.values()
            x = layer(x, semantic)
        assert torch.equal(units(grid), x)
        assert not torch.allclose(units.others[0](x, semantic)[0], units.others[0](x, -semantic)[0])


def test_frames_are_folded_for_several_grids():
    module = PerFrame(lambda x, y: x + y.mean((1, 2), keepdim=True))
    x, y = tokens(2, 3, 4, 5), tokens(2, 3, 2, 2)
    torch.testing.assert_close(module(x, y), x + y.mean((2, 3), keepdim=True))
