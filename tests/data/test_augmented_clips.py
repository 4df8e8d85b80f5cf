"""Augmented training samples, from the config to the batch."""

import pytest
import torch

from stvit_video.config import load_config
from stvit_video.data import labeled_videos
from stvit_video.data.augment.erasing import RandomErasing
from stvit_video.data.augment.operations import ColorJitter
from stvit_video.data.augment.policy import AugmentationPolicy
from stvit_video.data.build import build_augmentations, build_dataset, build_loader, build_mixing
from stvit_video.data.samplers import SampleKey, generator_for
from stvit_video.errors import UserError

CONFIG = """
DEVICE: cpu
TRAIN: {BATCH_SIZE: 2}
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 3, TRAIN_CROP_SIZE: 32, VAL_SHORT_SIDE: 40}
DATA_LOADER: {NUM_WORKERS: 0}
MODEL: {NUM_CLASSES: 3}
"""
AUG = ("AUG.ENABLE", "True", "AUG.AA_TYPE", "rand-m9-n3-mstd0.5-inc1", "AUG.RE_PROB", "0.5")
PLAIN = (
    "AUG.ENABLE",
    "True",
    "AUG.AA_TYPE",
    "",
    "AUG.COLOR_JITTER",
    "0",
    "AUG.RE_PROB",
    "0",
    "DATA.RANDOM_FLIP",
    "False",
    "DATA.TRAIN_JITTER_SCALES_RELATIVE",
    "[1, 1]",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    "[1, 1]",
)


@pytest.fixture
def config(video_folder, tmp_path):
    """Return a function that maps overrides to a config of ``video_folder``."""
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return lambda *overrides: load_config(
        path, ["DATA.PATH_TO_DATA_DIR", str(video_folder), *overrides]
    )


def videos_of(cfg, *, epoch=0, rank=0, world_size=1):
    """Return the samples of an epoch, {(video index, sample number): pixels}."""
    loader = build_loader(cfg, "train", rank=rank, world_size=world_size)
    loader.batch_sampler.set_epoch(epoch)
    videos = {}
    for batch in loader:
        for index, video in zip(batch["video_index"].tolist(), batch["video"], strict=True):
            number = sum(other == index for other, _ in videos)
            videos[index, number] = video
    return videos


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[k], others[k]) for k in some)


def test_without_augmentation_a_sample_is_its_crop_bit_by_bit(config):
    dataset = build_dataset(config(), "train")
    assert dataset.transform.augmentations == ()
    for index in range(6):
        generator = generator_for(SampleKey(index, 3), seed=0)
        with dataset.videos.open(index) as reader:
            indices = dataset.sampling.random_clip(
                reader.num_frames, fps=reader.fps, generator=generator
            )
            expected = dataset.transform.crop(reader.get_frames(indices), generator=generator)
        if torch.rand((), dtype=torch.float64, generator=generator) < 0.5:
            expected = expected.flip(-1)
        assert torch.equal(dataset[SampleKey(index, 3)]["video"], expected)


def test_augmentations_are_built_from_the_config_in_order(config):
    kinds = [type(augment) for augment in build_augmentations(config(*AUG))]
    assert kinds == [AugmentationPolicy, RandomErasing]
    jitter = config(*AUG, "AUG.AA_TYPE", "", "AUG.RE_MODE", "const", "AUG.RE_COUNT", "3")
    color_jitter, erasing = build_augmentations(jitter)
    assert color_jitter == ColorJitter(0.4)
    assert (erasing.probability, erasing.mode, erasing.max_count) == (0.5, "const", 3)
    assert build_augmentations(config(*PLAIN)) == ()


def test_an_invalid_policy_is_an_error_when_the_data_set_is_built(config):
    with pytest.raises(UserError, match=r"AUG\.AA_TYPE"):
        build_dataset(config(*AUG, "AUG.AA_TYPE", "rand-m99"), "train")
    build_dataset(config("AUG.AA_TYPE", "rand-m99"), "train")  # AUG.ENABLE is false


def test_mixing_is_built_for_soft_losses_only(config):
    soft = ("MODEL.LOSS_FUNC", "soft_cross_entropy", "MIXUP.LABEL_SMOOTH_VALUE", "0.2")
    assert build_mixing(config()) is None
    smoothing = build_mixing(config(*soft))
    assert (smoothing.label_smoothing, smoothing.probability) == (0.2, 0.0)
    mixing = build_mixing(config(*soft, "MIXUP.ENABLE", "True", "MIXUP.SWITCH_PROB", "0.3"))
    assert (mixing.probability, mixing.switch_probability) == (1.0, 0.3)
    assert (mixing.mixup_alpha, mixing.cutmix_alpha) == (0.8, 1.0)


@pytest.mark.parametrize("samples", ["1", "3"])
def test_a_sample_depends_only_on_seed_epoch_and_index(config, samples):
    aug = (*AUG, "AUG.NUM_SAMPLE", samples)
    alone = videos_of(config(*aug), epoch=1)
    assert len(alone) == 6 * int(samples)
    assert same(alone, videos_of(config(*aug, "DATA_LOADER.NUM_WORKERS", "2"), epoch=1))
    halves = [videos_of(config(*aug), epoch=1, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        assert same(half, {key: alone[key] for key in half})
    assert not same(alone, videos_of(config(*aug), epoch=2))
    assert not same(alone, videos_of(config(*aug, "RNG_SEED", "1"), epoch=1))


def test_all_samples_of_a_video_are_in_its_batch_and_differ(config):
    (batch, *_) = build_loader(config(*AUG, "AUG.NUM_SAMPLE", "3"), "train", rank=0, world_size=1)
    assert batch["video"].shape == (6, 3, 4, 32, 32)
    indices = batch["video_index"].tolist()
    assert indices[:3] == indices[:1] * 3
    assert indices[3:] == indices[3:4] * 3
    assert indices[0] != indices[3]
    assert batch["label"].tolist() == [index % 3 for index in indices]
    assert batch["video_name"] == [f"video {index}.mp4" for index in indices]
    assert len({video.numpy().tobytes() for video in batch["video"]}) == 6
    assert len(set(batch["mixing_seed"].tolist())) == 6


def test_the_first_repeated_sample_equals_the_single_sample(config):
    once = build_dataset(config(*AUG), "train")[SampleKey(2, 5)]
    first, second = build_dataset(config(*AUG, "AUG.NUM_SAMPLE", "2"), "train")[SampleKey(2, 5)]
    assert torch.equal(once["video"], first["video"])
    assert once["mixing_seed"] == first["mixing_seed"] != second["mixing_seed"]


def test_repeated_samples_share_one_decode(config, monkeypatch):
    opened = []
    real = labeled_videos.open_video
    monkeypatch.setattr(
        labeled_videos,
        "open_video",
        lambda path, **options: opened.append(path) or real(path, **options),
    )
    dataset = build_dataset(config(*PLAIN, "AUG.NUM_SAMPLE", "4"), "train")
    clips = [dataset[SampleKey(5, epoch)] for epoch in range(6)]
    assert len(opened) == 6
    for samples in clips:
        assert all(torch.equal(sample["video"], samples[0]["video"]) for sample in samples)
    assert len({samples[0]["video"].numpy().tobytes() for samples in clips}) > 1
