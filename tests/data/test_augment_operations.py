"""Single operations on clips; timm's, on images through Pillow, are the reference."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_augment
from torchvision.transforms.v2 import functional as tv

from stvit_video.data.augment.operations import OPERATIONS, Change, apply_changes, warp

LEVELS = (0.0, 3.0, 7.3, 10.0)
# Pillow rounds otherwise than torchvision, and blends with a rounded mean.
GREY_LEVELS = 2


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
    """timm's operation on each frame; signed ones to the positive side."""
    op = timm_augment.AugmentOp(name, prob=1.0, magnitude=level)
    op.kwargs["resample"] = interpolation
    frames = [op(Image.fromarray(f.numpy())) for f in video.permute(1, 2, 3, 0)]
    return torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(3, 0, 1, 2)


@pytest.fixture
def positive(monkeypatch):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: value)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_timm(positive, name, level):
    video = clip()
    ours = apply_changes(video, [Change(name, OPERATIONS[name].argument(level))])
    if (name, level) in (("Posterize", 0.0), ("PosterizeIncreasing", 10.0)):
        # timm keeps no bit here, which Pillow refuses; we keep one.
        assert torch.equal(ours, video & 0b10000000)
        return
    difference = (ours.int() - reference(video, name, level).int()).abs()
    if name.startswith(("Rotate", "Shear", "Translate")):
        # Pillow's edge is hard, ours is blended with the gray over one pixel.
        assert (difference > GREY_LEVELS).float().mean() < 0.06
    else:
        assert difference.max() <= GREY_LEVELS


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "TranslateYRel"])
def test_bicubic_interpolation_is_that_of_timm(positive, name):
    video, level = clip(), 6.1
    change = Change(name, OPERATIONS[name].argument(level))
    cubic = apply_changes(video, [change], interpolation="bicubic")
    assert not torch.equal(cubic, apply_changes(video, [change]))
    expected = reference(video, name, level, interpolation=Image.Resampling.BICUBIC)
    # Pillow's cubic has the parameter -0.5, torch's -0.75.
    far = (cubic.int() - expected.int()).abs() > 4
    assert far.float().mean() < 0.08


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].is_signed])
def test_a_negative_level_goes_the_other_way(monkeypatch, name):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: -value)
    video = clip()
    ours = apply_changes(video, [Change(name, OPERATIONS[name].argument(-4.0))])
    difference = (ours.int() - reference(video, name, 4.0).int()).abs()
    assert (difference > GREY_LEVELS).float().mean() < 0.06


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_every_frame_is_treated_alike_and_the_clip_is_left_alone(name, interpolation):
    video = clip(frames=1).expand(-1, 4, -1, -1)
    before = video.clone()
    change = Change(name, OPERATIONS[name].argument(6.0))
    changed = apply_changes(video, [change], interpolation=interpolation)
    assert changed.shape == video.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert torch.equal(video, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_frame_depends_on_another(name):
    video, change = clip(frames=6), Change(name, OPERATIONS[name].argument(6.0))
    alone = [apply_changes(frame, [change]) for frame in video.split(1, dim=1)]
    assert torch.equal(apply_changes(video, [change]), torch.cat(alone, dim=1))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_memory_layout_does_not_matter(name):
    video = clip()
    as_decoded = video.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    change = Change(name, OPERATIONS[name].argument(6.0))
    # Sums in another order may round a mean otherwise.
    difference = apply_changes(video, [change]).int() - apply_changes(as_decoded, [change]).int()
    assert difference.abs().max() <= 1


def test_an_unmoved_frame_is_the_same_and_what_comes_from_outside_is_gray():
    frames = clip().transpose(0, 1)
    for interpolation in ("bilinear", "bicubic"):
        assert torch.equal(warp(frames, (1, 0, 0, 0, 1, 0), interpolation=interpolation), frames)
        moved = warp(frames, (1, 0, 10, 0, 1, 0), interpolation=interpolation)
        torch.testing.assert_close(moved[..., :-12], frames[..., 10:-2])
        assert (moved[..., -8:] == 128).all()


def test_changes_are_made_in_their_order():
    video = clip()
    invert, darken = Change("Invert", 0.0), Change("Brightness", 0.5)
    inverted_first = apply_changes(video, [invert, darken])
    torch.testing.assert_close(inverted_first, ((255 - video) * 0.5).to(torch.uint8))
    darkened_first = apply_changes(video, [darken, invert])
    torch.testing.assert_close(darkened_first, 255 - (video * 0.5).to(torch.uint8))
