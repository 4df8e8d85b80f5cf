"""Test dumbbell units and feature pyramids at any size."""

import pytest
import torch
from small import imagenet_model, small_model
from torch import nn

from stvit_video.errors import UserError
from stvit_video.models.semantic.stage import PerFrame

CLASSIFICATION = ("STVIT.BORDER", "move")
DETECTION = (
    *("STVIT.BORDER", "cut", "STVIT.SEMANTIC_KEYS", "none", "STVIT.SHORTCUT", "True"),
    *("STVIT.KEY_WINDOWS", "(14, 21)", "STVIT.RECOVERY_WINDOW", "9"),
)
BORDERS = {
    "classification": CLASSIFICATION,
    "detection": DETECTION,
    "released": (*DETECTION, "STVIT.BORDER", "released"),
    "released, unmasked": (*DETECTION, "STVIT.BORDER", "released_unmasked"),
}
SMALL = (
    *("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5"),
    *("MODEL.DROPCONNECT_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0"),
)
DIM = 48


def make_unit(*overrides):
    """Return a dumbbell unit in double precision, with a layer scale that is not negligible."""
    model = imagenet_model("stvit_r_swin_t", *SMALL, *overrides)
    unit = dict(model.stages[2].blocks.named_children())["1"].double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.4)
    return unit


def tokens(*shape):
    return torch.randn(*shape, DIM, dtype=torch.float64)


def random_sizes(count, low, high):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(low, high, (count, 2), generator=draw).tolist()


@pytest.mark.parametrize("overrides", BORDERS.values(), ids=BORDERS)
def test_a_unit_keeps_any_size_of_grid(overrides):
    unit = make_unit(*overrides)
    for height, width in random_sizes(30, 1, 40):
        grid = tokens(1, 2, height, width).requires_grad_()
        found = unit(grid)
        assert found.shape == grid.shape
        assert found.isfinite().all()
        (gradient,) = torch.autograd.grad(found.square().sum(), grid)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("overrides", BORDERS.values(), ids=BORDERS)
def test_frames_do_not_see_each_other(overrides):
    unit = make_unit(*overrides)
    video = tokens(2, 3, 9, 15)
    found = unit(video)
    for clip in range(2):
        for frame in range(3):
            alone = unit(video[clip : clip + 1, frame : frame + 1])
            torch.testing.assert_close(found[clip, frame], alone[0, 0])


@pytest.mark.parametrize("overrides", [CLASSIFICATION, DETECTION], ids=list(BORDERS)[:2])
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


@pytest.mark.parametrize("overrides", [CLASSIFICATION, DETECTION], ids=list(BORDERS)[:2])
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


def test_frames_are_folded_for_several_grids():
    module = PerFrame(lambda x, y: x + y.mean((1, 2), keepdim=True))
    x, y = tokens(2, 3, 4, 5), tokens(2, 3, 2, 2)
    torch.testing.assert_close(module(x, y), x + y.mean((2, 3), keepdim=True))
