"""Random erasing of clips: the rectangles, their content, and how often."""

import numpy as np
import pytest
import torch

from stvit_video.data.augment.erasing import RandomErasing

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def erasing(probability=1.0, *, mode="pixel", max_count=1):
    return RandomErasing(probability, mode=mode, max_count=max_count, mean=MEAN, std=STD)


def erased_pixels(video, output):
    """Mask [T, H, W] of pixels of which any channel has changed."""
    return (video != output).any(0)


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_the_rectangle_is_the_same_in_all_frames(mode):
    # Neither the noise nor the mean color is ever white, so every erased pixel changes.
    video = torch.full((3, 5, 40, 60), 255, dtype=torch.uint8)
    erase = RandomErasing(1.0, mode=mode, max_count=1, mean=(0.3,) * 3, std=(0.05,) * 3)
    for seed in range(20):
        (box,) = erase.draw(40, 60, generator=generator(seed))
        output = erase(video, generator=generator(seed))
        expected = torch.zeros(5, 40, 60, dtype=torch.bool)
        box.crop_video(expected).fill_(True)
        assert torch.equal(erased_pixels(video, output), expected)
    assert (video == 255).all()


def test_only_noise_differs_between_frames():
    video = torch.full((3, 4, 32, 32), 255, dtype=torch.uint8)
    for mode in ("pixel", "rand", "const"):
        erase = erasing(mode=mode)
        (box,) = erase.draw(32, 32, generator=generator(3))
        patch = box.crop_video(erase(video, generator=generator(3)))
        assert torch.equal(patch, patch[:, :1].expand_as(patch)) == (mode != "pixel")
        is_flat = torch.equal(patch, patch[:, :1, :1, :1].expand_as(patch))
        assert is_flat == (mode != "pixel")


def test_content_of_the_rectangles():
    video = torch.zeros(3, 16, 64, 64, dtype=torch.uint8)
    (box,) = erasing().draw(64, 64, generator=generator(1))
    noise = box.crop_video(erasing()(video, generator=generator(1))).double().flatten(1) / 255
    # Clamping at two standard deviations keeps the mean and lowers the deviation by 4 %.
    assert noise.mean(1).tolist() == pytest.approx(MEAN, abs=0.015)
    assert noise.std(1).tolist() == pytest.approx([0.96 * std for std in STD], rel=0.06)
    mean = box.crop_video(erasing(mode="const")(video, generator=generator(1)))[:, 0, 0, 0]
    assert mean.tolist() == [round(255 * channel) for channel in MEAN]
    colors = [
        tuple(box.crop_video(erasing(mode="rand")(video, generator=draws))[:, 0, 0, 0].tolist())
        for draws in [generator(seed) for seed in range(30)]
        for (box,) in [erasing().draw(64, 64, generator=generator(draws.initial_seed()))]
    ]
    assert len(set(colors)) == 30


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_clips_are_erased_as_often_as_configured(probability):
    draws, erase = generator(), erasing(probability)
    share = np.mean([bool(erase.draw(32, 32, generator=draws)) for _ in range(2000)])
    assert abs(share - probability) <= 5 * (probability * (1 - probability) / 2000) ** 0.5


def test_rectangles_have_the_areas_and_aspect_ratios_of_the_paper():
    draws, erase = generator(), erasing()
    boxes = [box for _ in range(2000) for box in erase.draw(200, 300, generator=draws)]
    assert len(boxes) == 2000
    areas = np.array([box.height * box.width / 60000 for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert 0.019 < areas.min() < 0.022
    assert 0.32 < areas.max() < 0.335
    assert 0.29 < aspects.min() < 0.32
    assert 3.1 < aspects.max() < 3.4
    assert all(0 <= box.top <= 200 - box.height for box in boxes)
    assert all(0 <= box.left <= 300 - box.width for box in boxes)
    assert min(box.top for box in boxes) == min(box.left for box in boxes) == 0


def test_several_rectangles_share_the_area():
    draws, erase = generator(), erasing(max_count=3)
    drawn = [erase.draw(200, 200, generator=draws) for _ in range(900)]
    counts = np.bincount([len(boxes) for boxes in drawn], minlength=4)
    assert counts[0] == 0
    assert all(abs(count - 300) < 5 * 14.2 for count in counts[1:])
    for boxes in drawn:
        for box in boxes:
            assert box.height * box.width / 40000 < 0.345 / len(boxes)


def test_all_randomness_comes_from_the_generator():
    video = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    first = erasing()(video, generator=generator(7))
    torch.manual_seed(1)
    assert torch.equal(first, erasing()(video, generator=generator(7)))
    assert not torch.equal(first, erasing()(video, generator=generator(8)))
