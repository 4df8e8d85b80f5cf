"""Single operations on clips, compared with timm's operations on Pillow images."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_augment
from torchvision.transforms.v2 import functional as tv

from stvit_video.data.augment.operations import OPERATIONS, SampledOp, apply_ops, warp

LEVELS = (0.0, 3.0, 7.3, 10.0)
# Pillow rounds differently from torchvision, and blends with a rounded mean.
GRAY_LEVELS = 2


def clip(frames=3, height=40, width=56, seed=0):
    """Smooth random frames, all different: uint8 [C, T, H, W]."""
    coarse = torch.randint(
        0,
        256,
        (frames, 3, 6, 8),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )
    return tv.resize(coarse, [height, width]).transpose(0, 1).contiguous()


def reference(video, name, level, *, interpolation=Image.Resampling.BILINEAR):
    """Apply timm's operation to each frame."""
    op = timm_augment.AugmentOp(name, prob=1.0, magnitude=level)
    op.kwargs["resample"] = interpolation
    frames = [op(Image.fromarray(f.numpy())) for f in video.permute(1, 2, 3, 0)]
    return torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(3, 0, 1, 2)


@pytest.fixture
def positive(monkeypatch):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: value)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_match_timm(positive, name, level):
    video = clip()
    ours = apply_ops(video, [SampledOp(name, OPERATIONS[name].argument(level))])
    if (name, level) in (("Posterize", 0.0), ("PosterizeIncreasing", 10.0)):
        # timm keeps no bit here, which Pillow rejects; we keep one.
        assert torch.equal(ours, video & 0b10000000)
        return
    difference = (ours.int() - reference(video, name, level).int()).abs()
    if name.startswith(("Rotate", "Shear", "Translate")):
        # Pillow's border is hard, ours is blended with gray over one pixel.
        assert (difference > GRAY_LEVELS).float().mean() < 0.06
    else:
        assert difference.max() <= GRAY_LEVELS


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "TranslateYRel"])
def test_bicubic_interpolation_matches_timm(positive, name):
    video, level = clip(), 6.1
    op = SampledOp(name, OPERATIONS[name].argument(level))
    cubic = apply_ops(video, [op], interpolation="bicubic")
    assert not torch.equal(cubic, apply_ops(video, [op]))
    expected = reference(video, name, level, interpolation=Image.Resampling.BICUBIC)
    # Pillow's cubic has the parameter -0.5, torch's -0.75.
    far = (cubic.int() - expected.int()).abs() > 4
    assert far.float().mean() < 0.08


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].is_signed])
def test_a_negative_level_reverses_the_operation(monkeypatch, name):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: -value)
    video = clip()
    ours = apply_ops(video, [SampledOp(name, OPERATIONS[name].argument(-4.0))])
    difference = (ours.int() - reference(video, name, 4.0).int()).abs()
    assert (difference > GRAY_LEVELS).float().mean() < 0.06


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_all_frames_change_equally_and_the_input_is_not_modified(name, interpolation):
    video = clip(frames=1).expand(-1, 4, -1, -1)
    before = video.clone()
    op = SampledOp(name, OPERATIONS[name].argument(6.0))
    changed = apply_ops(video, [op], interpolation=interpolation)
    assert changed.shape == video.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert torch.equal(video, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_frame_depends_on_another(name):
    video, op = clip(frames=6), SampledOp(name, OPERATIONS[name].argument(6.0))
    alone = [apply_ops(frame, [op]) for frame in video.split(1, dim=1)]
    assert torch.equal(apply_ops(video, [op]), torch.cat(alone, dim=1))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_memory_format_does_not_matter(name):
    video = clip()
    as_decoded = video.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    op = SampledOp(name, OPERATIONS[name].argument(6.0))
    # A mean may round differently when summed in another order.
    difference = apply_ops(video, [op]).int() - apply_ops(as_decoded, [op]).int()
    assert difference.abs().max() <= 1


def test_identity_warp_changes_nothing_and_outside_pixels_are_gray():
    frames = clip().transpose(0, 1)
    for interpolation in ("bilinear", "bicubic"):
        assert torch.equal(warp(frames, (1, 0, 0, 0, 1, 0), interpolation=interpolation), frames)
        moved = warp(frames, (1, 0, 10, 0, 1, 0), interpolation=interpolation)
        torch.testing.assert_close(moved[..., :-12], frames[..., 10:-2])
        assert (moved[..., -8:] == 128).all()


def test_operations_are_applied_in_order():
    video = clip()
    invert, darken = SampledOp("Invert", 0.0), SampledOp("Brightness", 0.5)
    inverted_first = apply_ops(video, [invert, darken])
    torch.testing.assert_close(inverted_first, ((255 - video) * 0.5).to(torch.uint8))
    darkened_first = apply_ops(video, [darken, invert])
    torch.testing.assert_close(darkened_first, 255 - (video * 0.5).to(torch.uint8))
