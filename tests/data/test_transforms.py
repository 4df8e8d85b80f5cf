import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from stvit_video.data.transforms import (
    JitteredCrop,
    RandomResizedCrop,
    SpatialCrops,
    TrainTransform,
    resize_short_side,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clip(height=48, width=64, frames=3):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (frames, height // 8, width // 8, 3), dtype=np.uint8)
    return torch.from_numpy(smooth.repeat(8, 1).repeat(8, 2))


def test_resizing_is_bilinear_with_antialiasing_within_a_gray_level_of_floats():
    frames = clip()
    for side in (24, 48, 100):
        resized = resize_short_side(frames, side)
        assert resized.shape == (3, 3, side, side * 64 // 48)
        assert resized.dtype == torch.uint8
        images = frames.permute(0, 3, 1, 2).float()
        exact = F.interpolate(images, resized.shape[-2:], mode="bilinear", antialias=True)
        assert (resized.permute(1, 0, 2, 3) - exact).abs().max() < 1.01


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48)])
def test_a_random_resized_crop_is_its_rectangle_resized(height, width):
    frames = clip(height, width)
    crop = RandomResizedCrop(32, area=(0.2, 0.6), aspect=(0.75, 4 / 3))
    for seed in range(5):
        box = crop.draw(height, width, generator=generator(seed))
        rows = slice(box.top, box.top + box.height)
        cut = frames[:, rows, box.left : box.left + box.width].permute(0, 3, 1, 2)
        expected = F.interpolate(cut, (32, 32), mode="bilinear", antialias=True)
        got = crop(frames, generator=generator(seed))
        torch.testing.assert_close(got.permute(1, 0, 2, 3), expected)


def test_random_resized_crops_cover_their_ranges():
    crop = RandomResizedCrop(32, area=(0.1, 0.5), aspect=(0.5, 2.0))
    draws = generator()
    boxes = [crop.draw(240, 320, generator=draws) for _ in range(400)]
    areas = np.array([box.height * box.width / (240 * 320) for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert 0.09 < areas.min() < 0.13
    assert 0.47 < areas.max() < 0.51
    assert abs(areas.mean() - 0.3) < 0.02
    assert aspects.min() < 0.55
    assert aspects.max() > 1.8
    assert abs(np.log(aspects).mean()) < 0.1  # as often wide as tall
    assert all(0 <= box.top <= 240 - box.height for box in boxes)
    assert all(0 <= box.left <= 320 - box.width for box in boxes)
    assert {box.left == 0 for box in boxes} == {True, False} or min(b.left for b in boxes) < 5


def test_a_crop_that_never_fits_becomes_the_largest_center_crop():
    crop = RandomResizedCrop(32, area=(1.0, 1.0), aspect=(1.0, 1.0))
    box = crop.draw(40, 100, generator=generator())
    assert (box.top, box.left, box.height, box.width) == (0, 30, 40, 40)


def test_a_jittered_crop_has_the_scale_of_a_resized_short_side():
    crop = JitteredCrop(224, short_sides=(256, 320))
    draws = generator()
    boxes = [crop.draw(512, 700, generator=draws) for _ in range(300)]
    sides = {box.height for box in boxes}
    assert all(box.height == box.width for box in boxes)
    assert (min(sides), max(sides)) == (round(512 * 224 / 320), round(512 * 224 / 256))
    assert crop(clip(), generator=generator()).shape == (3, 3, 224, 224)


def test_half_of_the_clips_are_flipped():
    frames = clip(32, 32)
    whole = RandomResizedCrop(32, area=(1.0, 1.0), aspect=(1.0, 1.0))
    upright = frames.permute(3, 0, 1, 2)
    draws = generator()
    flipped = 0
    for _ in range(200):
        video = TrainTransform(whole, flip=True)(frames, generator=draws)
        is_flipped = torch.equal(video, upright.flip(-1))
        assert is_flipped or torch.equal(video, upright)
        flipped += is_flipped
    assert abs(flipped - 100) < 4 * math.sqrt(50)
    never = TrainTransform(whole, flip=False)
    assert torch.equal(never(frames, generator=draws), upright)


def test_all_randomness_comes_from_the_generator():
    frames = clip()
    transform = TrainTransform(RandomResizedCrop(32, area=(0.1, 1.0), aspect=(0.5, 2)), flip=True)
    first = transform(frames, generator=generator(7))
    torch.manual_seed(123)
    assert torch.equal(first, transform(frames, generator=generator(7)))
    assert not torch.equal(first, transform(frames, generator=generator(8)))


@pytest.mark.parametrize("is_wide", [True, False])
def test_three_crops_lie_along_the_longer_side(is_wide):
    steps = torch.arange(90, dtype=torch.uint8)
    frames = steps.view(1, 1, 90, 1).expand(2, 50, 90, 3)
    frames = frames if is_wide else frames.transpose(1, 2)
    crops = SpatialCrops(short_side=50, size=50, count=3)
    views = torch.stack(crops.crop(frames.permute(3, 0, 1, 2)))
    assert views.shape == (3, 3, 2, 50, 50)
    along = views[:, 0, 0, 0] if is_wide else views[:, 0, 0, :, 0]
    assert along[:, 0].tolist() == [0, 20, 40]
    assert along[:, -1].tolist() == [49, 69, 89]


def test_one_crop_is_the_center():
    pixels = torch.arange(60 * 80).view(1, 60, 80, 1).expand(1, 60, 80, 3).to(torch.uint8)
    crops = SpatialCrops(short_side=60, size=40)
    (view,) = crops.crop(crops.resize(pixels[0])[None].permute(3, 0, 1, 2))
    torch.testing.assert_close(view[0, 0], pixels[0, 10:50, 20:60, 0])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (501, 333), (224, 300)])
def test_the_center_crop_of_an_image_is_that_of_torchvision(size):
    """500 x 375, the most common size in ImageNet, loses 117 columns."""
    noise = torch.randint(256, (40, 50, 3), generator=generator(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BICUBIC)
    theirs = transforms.Compose(
        [transforms.Resize(256, InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    crops = SpatialCrops(256, 224, interpolation="bicubic", for_images=True)
    frame = crops.resize(torch.from_numpy(np.array(image)))
    (view,) = crops.crop(frame[None].permute(3, 0, 1, 2))
    expected = torch.from_numpy(np.array(theirs(image))).permute(2, 0, 1)
    difference = (view[:, 0].int() - expected.int()).abs()
    assert difference.float().mean() < 0.1
    assert difference.max() <= 2
