"""Build data sets, augmentations and loaders from a config."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import Sampler

from stvit_video.data.augment.erasing import RandomErasing
from stvit_video.data.augment.mixing import Mixing
from stvit_video.data.augment.operations import ColorJitter
from stvit_video.data.augment.policy import parse_policy
from stvit_video.data.bad_videos import BadVideoLog
from stvit_video.data.coco.build import build_coco, build_coco_sampler, log_left_out
from stvit_video.data.coco.dataset import CocoImages, collate_images
from stvit_video.data.imagenet import read_image_folders
from stvit_video.data.kinetics import CenterClips, MultiViewVideos, TrainingClips, VideoDataset
from stvit_video.data.labeled_paths import read_labeled_paths
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.loader import VideoLoader
from stvit_video.data.samplers import EvalBatchSampler, TrainBatchSampler, replacement
from stvit_video.data.sampling import PROTOCOLS, ClipSampling
from stvit_video.data.transforms import (
    JitteredCrop,
    RandomResizedCrop,
    SpatialCrops,
    TrainTransform,
)
from stvit_video.data.workers import collate
from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry


def build_augmentations(cfg: CfgNode) -> tuple[Callable[..., Tensor], ...]:
    """Build what the AUG keys add to the crop and flip of training clips, in order.

    Raises:
        UserError: AUG.AA_TYPE is no policy.
    """
    aug = cfg.AUG
    if not aug.ENABLE:
        return ()
    augmentations: list[Callable[..., Tensor]] = []
    if aug.AA_TYPE:
        augmentations.append(parse_policy(aug.AA_TYPE, interpolation=aug.INTERPOLATION))
    elif aug.COLOR_JITTER > 0:
        augmentations.append(ColorJitter(aug.COLOR_JITTER))
    if aug.RE_PROB > 0:
        erasing = RandomErasing(
            aug.RE_PROB,
            mode=aug.RE_MODE,
            max_count=aug.RE_COUNT,
            mean=cfg.DATA.MEAN,
            std=cfg.DATA.STD,
        )
        augmentations.append(erasing)
    return tuple(augmentations)


def build_mixing(cfg: CfgNode) -> Mixing | None:
    """Build what makes soft targets of labels; None where the loss takes the labels."""
    if cfg.MODEL.LOSS_FUNC != "soft_cross_entropy":
        return None
    return Mixing(
        cfg.MODEL.NUM_CLASSES,
        label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
        probability=cfg.MIXUP.PROB if cfg.MIXUP.ENABLE else 0.0,
        mixup_alpha=cfg.MIXUP.ALPHA,
        cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
        switch_probability=cfg.MIXUP.SWITCH_PROB,
    )


_IMAGES = "imagenet"

DATASETS: Registry[Callable[[CfgNode, str], VideoDataset | CocoImages]] = Registry(
    "data set (TRAIN.DATASET, TEST.DATASET)"
)
DATASETS.register("coco")(build_coco)


def build_dataset(cfg: CfgNode, split: str) -> VideoDataset | CocoImages:
    """Build the data set of a split: "train", "val" or "test".

    A sample is a dict with PyTorchVideo's names: ``video`` (uint8), ``label``, ``video_index``,
    ``video_name`` and, except in "test", ``clip_index``.

    Raises:
        UserError: a file that the config names is missing or has a mistake in it.
    """
    return DATASETS.get(_dataset_name(cfg, split))(cfg, split)


def build_loader(cfg: CfgNode, split: str, *, rank: int, world_size: int) -> VideoLoader:
    """Build the loader of a split for one rank.

    "train" batches are shuffled (``loader.batch_sampler.set_epoch`` chooses the order) and hold
    ``[B S, 3, T, H, W]``, the S (AUG.NUM_SAMPLE) clips of a video in a row; "val" batches hold
    ``[B, 3, T, H, W]``, every video once, dealt out to the ranks in turn; "test" batches hold
    ``[B, V K, 3, T, H, W]``, all views of whole videos. "train" batches of "coco" hold images of
    one orientation, wide or high, in each step of all ranks; its "val" and "test" batches hold one
    image each, which so is never padded to another's size.

    Raises:
        UserError: as `build_dataset`, or there are fewer training videos than one step takes.
    """
    dataset = build_dataset(cfg, split)
    is_train = split == "train"
    ranks = {"rank": rank, "world_size": world_size}
    sampler: Sampler
    if isinstance(dataset, CocoImages):
        log_left_out(cfg, dataset.annotations)
        sampler = build_coco_sampler(cfg, split, dataset.annotations, **ranks)
    else:
        build_sampler = _train_sampler if is_train else _eval_sampler
        sampler = build_sampler(cfg, dataset, split=split, **ranks)
    # In training another sample takes the place of one that cannot be read. In an evaluation it
    # is left out: one over other samples than its list says would be wrong in silence.
    replace = partial(replacement, num_samples=len(dataset), seed=cfg.RNG_SEED)
    return VideoLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.DEVICE != "cpu" and torch.cuda.is_available(),
        bad_video_log=BadVideoLog(
            dataset.videos.paths,
            file=Path(cfg.OUTPUT_DIR) / "quarantine.csv",
            max_bad=cfg.DATA.MAX_BAD_VIDEOS,
            fate="replaced by another one" if is_train else "left out",
        ),
        second_try=None if isinstance(dataset, CocoImages) else build_second_try(dataset),
        replace=replace if is_train else None,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        collate=collate_images if isinstance(dataset, CocoImages) else collate,
    )


def build_second_try(dataset: VideoDataset) -> VideoDataset | None:
    """Build the same data set over PyAV, for what its own decoder cannot read.

    There is none behind PyAV itself: what it refuses, decord reads with frames that are wrong.
    """
    return dataset.with_backend("pyav") if dataset.videos.backend == "decord" else None


@DATASETS.register("kinetics")
def build_kinetics(cfg: CfgNode, split: str) -> VideoDataset:
    """Build the data set of ``<split>.csv`` in DATA.PATH_TO_DATA_DIR.

    Raises:
        UserError: the file is missing or has a mistake in it, or none of its first videos exists.
    """
    csv_path = _csv_path(cfg.DATA.PATH_TO_DATA_DIR, split)
    paths = read_labeled_paths(
        csv_path, separator=cfg.DATA.PATH_LABEL_SEPARATOR, num_classes=cfg.MODEL.NUM_CLASSES
    )
    videos = LabeledVideos(
        paths,
        prefix=cfg.DATA.PATH_PREFIX or csv_path.parent,
        backend=cfg.DATA.DECODING_BACKEND,
    )
    return _build_clips(cfg, split, videos)


@DATASETS.register(_IMAGES)
def build_imagenet(cfg: CfgNode, split: str) -> VideoDataset:
    """Build the data set of the class folders in DATA.PATH_TO_DATA_DIR; the test takes ``val``.

    Raises:
        UserError: a folder is missing, or its classes are not those of the config.
    """
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    folder = root / ("train" if split == "train" else "val")
    # A test may be of a machine that has no training images.
    like = root / "train" if split == "val" else None
    paths = read_image_folders(folder, num_classes=cfg.MODEL.NUM_CLASSES, like=like)
    return _build_clips(cfg, split, LabeledVideos(paths, prefix=folder, backend="image"))


def _build_clips(cfg: CfgNode, split: str, videos: LabeledVideos) -> VideoDataset:
    sampling = build_sampling(cfg)
    if split == "train":
        return TrainingClips(
            videos,
            sampling=sampling,
            transform=build_train_transform(cfg),
            seed=cfg.RNG_SEED,
            num_samples=cfg.AUG.NUM_SAMPLE,
        )
    if split == "val":
        crops = SpatialCrops(
            cfg.DATA.VAL_SHORT_SIDE,
            cfg.DATA.TRAIN_CROP_SIZE,
            interpolation=cfg.DATA.INTERPOLATION,
            of_images=cfg.TRAIN.DATASET == _IMAGES,
        )
        return CenterClips(videos, sampling=sampling, crops=crops)
    return MultiViewVideos(
        videos,
        sampling=sampling,
        crops=build_test_crops(cfg),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
    )


def build_sampling(cfg: CfgNode) -> ClipSampling:
    """Build the protocol that places clips in a video."""
    return PROTOCOLS.get(cfg.DATA.SAMPLING_PROTOCOL)(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        target_fps=cfg.DATA.TARGET_FPS,
    )


def build_train_transform(cfg: CfgNode) -> TrainTransform:
    """Build the random crop, flip and augmentations of training clips.

    Raises:
        UserError: AUG.AA_TYPE is no policy.
    """
    data = cfg.DATA
    crop: RandomResizedCrop | JitteredCrop
    if data.TRAIN_JITTER_SCALES_RELATIVE:
        crop = RandomResizedCrop(
            data.TRAIN_CROP_SIZE,
            area=data.TRAIN_JITTER_SCALES_RELATIVE,
            aspect=data.TRAIN_JITTER_ASPECT_RELATIVE,
        )
    else:
        crop = JitteredCrop(data.TRAIN_CROP_SIZE, short_sides=data.TRAIN_JITTER_SCALES)
    return TrainTransform(
        crop,
        flip=data.RANDOM_FLIP,
        augmentations=build_augmentations(cfg),
        interpolation=data.INTERPOLATION,
    )


def build_test_crops(cfg: CfgNode) -> SpatialCrops:
    """Build the crops of the test views."""
    size, count = cfg.DATA.TEST_CROP_SIZE, cfg.TEST.NUM_SPATIAL_CROPS
    short_side = cfg.DATA.VAL_SHORT_SIDE if count == 1 else size
    return SpatialCrops(
        short_side,
        size,
        count=count,
        interpolation=cfg.DATA.INTERPOLATION,
        of_images=cfg.TEST.DATASET == _IMAGES,
    )


def _dataset_name(cfg: CfgNode, split: str) -> str:
    return cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET


def _csv_path(folder: str, split: str) -> Path:
    path = Path(folder) / f"{split}.csv"
    if folder and path.is_file():
        return path
    missing = f"there is no {path}" if folder else "DATA.PATH_TO_DATA_DIR is empty"
    raise UserError(
        f'{missing}: set DATA.PATH_TO_DATA_DIR to a folder with {split}.csv (a line "path label" '
        "for each video), or try `make demo`, which makes videos of its own "
        "(tools/make_motion_videos.py)"
    )


def _train_sampler(
    cfg: CfgNode, dataset: VideoDataset, *, split: str, rank: int, world_size: int
) -> TrainBatchSampler:
    paths = dataset.videos.paths
    batch_size = cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS
    if len(dataset) < batch_size * world_size:
        raise UserError(
            f"{paths.csv_path} lists {len(paths)} {paths.items}, fewer than the "
            f"{batch_size * world_size} of one step of all ranks; lower TRAIN.BATCH_SIZE"
        )
    return TrainBatchSampler(
        len(dataset),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=cfg.RNG_SEED,
    )


def _eval_sampler(
    cfg: CfgNode, dataset: VideoDataset, *, split: str, rank: int, world_size: int
) -> EvalBatchSampler:
    if split == "val":
        batch_size = cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS
    else:
        views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        batch_size = max(1, cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS // views)
    return EvalBatchSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
