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
from stvit_video.data.samplers import EvalBatchSampler, TrainBatchSampler, draw_replacement
from stvit_video.data.sampling import PROTOCOLS, ClipSampling
from stvit_video.data.transforms import (
    JitteredCrop,
    RandomCrop,
    RandomResizedCrop,
    SpatialCrops,
    TrainTransform,
)
from stvit_video.data.workers import collate
from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry

_IMAGENET = "imagenet"

DATASETS: Registry[Callable[[CfgNode, str], VideoDataset | CocoImages]] = Registry(
    "data set (TRAIN.DATASET, TEST.DATASET)"
)
DATASETS.register("coco")(build_coco)


def build_loader(cfg: CfgNode, split: str, *, rank: int, world_size: int) -> VideoLoader:
    """Build the loader of a split for one rank.

    "train" batches are shuffled (``loader.batch_sampler.set_epoch`` sets the order) and hold
    ``[B S, 3, T, H, W]``, with the S (AUG.NUM_SAMPLE) clips of a video next to each other; "val"
    batches hold ``[B, 3, T, H, W]``, every video once, assigned to the ranks in turn; "test"
    batches hold ``[B, V K, 3, T, H, W]``, all views of whole videos. The images of a "train" step
    of "coco", on all ranks, are all landscape or all portrait; its "val" and "test" batches hold a
    single image, so it is never padded to the size of another.

    Raises:
        UserError: as `build_dataset`, or there are fewer training videos than one step needs.
    """
    dataset = build_dataset(cfg, split)
    is_train = split == "train"
    sampler: Sampler
    fallback, collate_samples = None, collate
    if isinstance(dataset, CocoImages):
        collate_samples = collate_images
        log_left_out(cfg, dataset.annotations)
        sampler = build_coco_sampler(
            cfg, split, dataset.annotations, rank=rank, world_size=world_size
        )
    else:
        fallback = build_fallback(dataset)
        if is_train:
            sampler = _build_train_sampler(cfg, dataset, rank=rank, world_size=world_size)
        else:
            sampler = _build_eval_sampler(cfg, dataset, split, rank=rank, world_size=world_size)
    # Training replaces a sample that cannot be read. Evaluation leaves it out, as results that
    # silently include other samples would be wrong.
    replace = partial(draw_replacement, num_samples=len(dataset), seed=cfg.RNG_SEED)
    return VideoLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.DEVICE != "cpu" and torch.cuda.is_available(),
        bad_video_log=BadVideoLog(
            dataset.videos.paths,
            file=Path(cfg.OUTPUT_DIR) / "quarantine.csv",
            max_bad=cfg.DATA.MAX_BAD_VIDEOS,
            handling="replaced by another one" if is_train else "left out",
        ),
        fallback=fallback,
        replace=replace if is_train else None,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        collate=collate_samples,
    )


def build_dataset(cfg: CfgNode, split: str) -> VideoDataset | CocoImages:
    """Build the data set of a split: "train", "val" or "test".

    A sample is a dict with the keys of PyTorchVideo: ``video`` (uint8), ``label``, ``video_index``,
    ``video_name`` and, except in "test", ``clip_index``.

    Raises:
        UserError: a file of the config is missing or invalid.
    """
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    return DATASETS.get(name)(cfg, split)


def build_fallback(dataset: VideoDataset) -> VideoDataset | None:
    """Build the same data set with PyAV, to retry videos that decord cannot read.

    PyAV itself has no fallback: decord returns wrong frames for the videos that PyAV rejects.
    """
    return dataset.with_backend("pyav") if dataset.videos.backend == "decord" else None


@DATASETS.register("kinetics")
def build_kinetics(cfg: CfgNode, split: str) -> VideoDataset:
    """Build the data set of ``<split>.csv`` in DATA.PATH_TO_DATA_DIR.

    Raises:
        UserError: the file is missing or invalid, or none of its first videos exists.
    """
    csv_path = _find_csv(cfg.DATA.PATH_TO_DATA_DIR, split)
    paths = read_labeled_paths(
        csv_path, separator=cfg.DATA.PATH_LABEL_SEPARATOR, num_classes=cfg.MODEL.NUM_CLASSES
    )
    videos = LabeledVideos(
        paths,
        prefix=cfg.DATA.PATH_PREFIX or csv_path.parent,
        backend=cfg.DATA.DECODING_BACKEND,
    )
    return _build_clips(cfg, split, videos)


@DATASETS.register(_IMAGENET)
def build_imagenet(cfg: CfgNode, split: str) -> VideoDataset:
    """Build the data set of the class folders in DATA.PATH_TO_DATA_DIR; "test" reads ``val``.

    Raises:
        UserError: a folder is missing, or its classes do not match the config.
    """
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    folder = root / ("train" if split == "train" else "val")
    # Testing must also work on a machine without the training images.
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
            for_images=cfg.TRAIN.DATASET == _IMAGENET,
        )
        return CenterClips(videos, sampling=sampling, crops=crops)
    return MultiViewVideos(
        videos,
        sampling=sampling,
        crops=build_test_crops(cfg),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
    )


def build_train_transform(cfg: CfgNode) -> TrainTransform:
    """Build the transform of training clips: random crop, flip and augmentations.

    Raises:
        UserError: AUG.AA_TYPE is not a valid policy.
    """
    data = cfg.DATA
    crop: RandomCrop
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


def build_augmentations(cfg: CfgNode) -> tuple[Callable[..., Tensor], ...]:
    """Build the augmentations of the AUG keys, in the order in which they follow crop and flip.

    Raises:
        UserError: AUG.AA_TYPE is not a valid policy.
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


def build_sampling(cfg: CfgNode) -> ClipSampling:
    """Build the sampling protocol of the clips."""
    return PROTOCOLS.get(cfg.DATA.SAMPLING_PROTOCOL)(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        target_fps=cfg.DATA.TARGET_FPS,
    )


def build_test_crops(cfg: CfgNode) -> SpatialCrops:
    """Build the spatial crops of the test views."""
    size, count = cfg.DATA.TEST_CROP_SIZE, cfg.TEST.NUM_SPATIAL_CROPS
    short_side = cfg.DATA.VAL_SHORT_SIDE if count == 1 else size
    return SpatialCrops(
        short_side,
        size,
        count=count,
        interpolation=cfg.DATA.INTERPOLATION,
        for_images=cfg.TEST.DATASET == _IMAGENET,
    )


def build_mixing(cfg: CfgNode) -> Mixing | None:
    """Build the mixing that makes soft targets; None if the loss takes integer labels."""
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


def _find_csv(folder: str, split: str) -> Path:
    path = Path(folder) / f"{split}.csv"
    if folder and path.is_file():
        return path
    missing = f"there is no {path}" if folder else "DATA.PATH_TO_DATA_DIR is empty"
    raise UserError(
        f'{missing}: set DATA.PATH_TO_DATA_DIR to a folder with {split}.csv (one line "path label" '
        "per video), or try `make demo`, which generates its own videos "
        "(tools/make_motion_videos.py)"
    )


def _build_train_sampler(
    cfg: CfgNode, dataset: VideoDataset, *, rank: int, world_size: int
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


def _build_eval_sampler(
    cfg: CfgNode, dataset: VideoDataset, split: str, *, rank: int, world_size: int
) -> EvalBatchSampler:
    if split == "val":
        batch_size = cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS
    else:
        # TEST.BATCH_SIZE counts views, but a batch holds whole videos.
        views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        batch_size = max(1, cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS // views)
    return EvalBatchSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
