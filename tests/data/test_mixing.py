"""Mixup, CutMix and label smoothing, compared with PyTorchVideo's."""

from importlib import import_module

import numpy as np
import pytest
import torch

from stvit_video.data.augment.mixing import Mixing
from stvit_video.data.pytorchvideo import pytorchvideo_functional

CLASSES = 5


def mixing(**changes):
    settings = {
        "label_smoothing": 0.1,
        "probability": 1.0,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "switch_probability": 0.5,
    }
    return Mixing(CLASSES, **{**settings, **changes})


def pytorchvideo_mix():
    pytorchvideo_functional()  # makes pytorchvideo.transforms importable
    return import_module("pytorchvideo.transforms.mix")


def batch(size=4):
    video = torch.randn(size, 3, 2, 24, 32, generator=torch.Generator().manual_seed(0))
    return video, torch.arange(size) % CLASSES


def draws_of(mix, count=3000, *, size=(24, 32)):
    rng = np.random.default_rng(0)
    return [mix.draw(*size, rng=rng) for _ in range(count)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_mixup_matches_pytorchvideo(monkeypatch, smoothing, seed):
    video, labels = batch()
    mix = mixing(cutmix_alpha=0.0, label_smoothing=smoothing)
    lam = mix.draw(24, 32, rng=np.random.default_rng(seed)).lam
    reference = pytorchvideo_mix().MixUp(label_smoothing=smoothing, num_classes=CLASSES)
    monkeypatch.setattr(reference.mixup_beta_sampler, "sample", lambda: lam)
    expected_video, expected_targets = reference(video.clone(), labels)
    mixed, targets = mix(video.clone(), labels, seed=seed)
    torch.testing.assert_close(mixed, expected_video)
    torch.testing.assert_close(targets, expected_targets.float())


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_matches_pytorchvideo(monkeypatch, seed):
    video, labels = batch()
    mix = mixing(mixup_alpha=0.0)
    box = mix.draw(24, 32, rng=np.random.default_rng(seed)).box
    corners = (box.top, box.top + box.height, box.left, box.left + box.width)
    reference = pytorchvideo_mix().CutMix(label_smoothing=0.1, num_classes=CLASSES)
    monkeypatch.setattr(reference, "_get_rand_box", lambda shape, lam: corners)
    expected_video, expected_targets = reference(video.clone(), labels)
    mixed, targets = mix(video.clone(), labels, seed=seed)
    assert torch.equal(mixed, expected_video)
    torch.testing.assert_close(targets, expected_targets)


@pytest.mark.parametrize("seed", range(30))
def test_label_weights_equal_the_shares_of_pixels(seed):
    """Clips are filled with their own index, so the mean of the pixels gives the share."""
    size = 4
    video = torch.arange(size).float().view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 24, 32).clone()
    mixed, targets = mixing(label_smoothing=0.0)(video, torch.arange(size), seed=seed)
    for clip in range(size):
        other = size - 1 - clip
        shown = (mixed[clip].mean().item() - other) / (clip - other)
        assert targets[clip, clip].item() == pytest.approx(shown, abs=1e-5)
        assert targets[clip, other].item() == pytest.approx(1 - shown, abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_cutmix_takes_the_same_rectangle_in_all_frames(seed):
    video = torch.zeros(2, 3, 6, 24, 32)
    video[1] = 1
    mixed, targets = mixing(mixup_alpha=0.0, label_smoothing=0.0)(
        video, torch.tensor([0, 1]), seed=seed
    )
    assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
    assert torch.equal(mixed[1], 1 - mixed[0])
    rows, columns = mixed[0, 0, 0].any(1), mixed[0, 0, 0].any(0)
    assert torch.equal(mixed[0, 0, 0].bool(), rows[:, None] & columns)
    area = mixed[0, 0, 0].mean().item()
    assert targets.tolist() == [
        pytest.approx([1 - area, area, 0, 0, 0]),
        pytest.approx([area, 1 - area, 0, 0, 0]),
    ]


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_targets_are_distributions(size, smoothing):
    for seed in range(20):
        video, labels = batch(size)
        _, targets = mixing(label_smoothing=smoothing)(video, labels, seed=seed)
        assert targets.shape == (size, CLASSES)
        torch.testing.assert_close(targets.sum(1), torch.ones(size))
        assert targets.min() >= smoothing / CLASSES - 1e-6


def test_smoothing_alone_does_not_change_the_clips():
    video, labels = batch()
    same, targets = mixing(probability=0.0)(video.clone(), labels, seed=0)
    assert torch.equal(same, video)
    expected = torch.full((4, CLASSES), 0.02)
    expected[range(4), labels] = 0.92
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize(("probability", "switch"), [(1.0, 0.5), (0.3, 0.8), (0.7, 0.0), (1, 1)])
def test_batches_are_mixed_as_often_as_configured(probability, switch):
    draws = draws_of(mixing(probability=probability, switch_probability=switch))
    mixed = [mix for mix in draws if mix.lam != 1 or mix.box is not None]
    assert len(mixed) / len(draws) == pytest.approx(probability, abs=0.045)
    assert np.mean([mix.box is not None for mix in mixed]) == pytest.approx(switch, abs=0.045)


def test_an_alpha_of_zero_disables_the_method():
    assert all(mix.box is None for mix in draws_of(mixing(cutmix_alpha=0.0), 200))
    assert all(mix.box is not None for mix in draws_of(mixing(mixup_alpha=0.0), 200))


def test_lambda_has_the_beta_distribution():
    lams = [mix.lam for mix in draws_of(mixing(cutmix_alpha=0.0, mixup_alpha=0.8))]
    assert np.mean(lams) == pytest.approx(0.5, abs=0.03)
    assert np.var(lams) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.1)
    # CutMix clips its squares to the frame, which raises the clip's own share.
    lams = [mix.lam for mix in draws_of(mixing(mixup_alpha=0.0), size=(224, 224))]
    assert 0.5 < np.mean(lams) < 0.75


def test_all_randomness_comes_from_the_seed():
    video, labels = batch()
    mixed, targets = mixing()(video.clone(), labels, seed=2**61)
    np.random.seed(1)
    torch.manual_seed(1)
    again, same = mixing()(video.clone(), labels, seed=2**61)
    assert torch.equal(mixed, again)
    assert torch.equal(targets, same)
    others = [mixing()(video.clone(), labels, seed=seed)[1] for seed in range(5)]
    assert all(not torch.equal(targets, other) for other in others)
