"""Build data sets and batch samplers of images with objects from a config."""

from pathlib import Path

from fvcore.common.config import CfgNode
from torchvision.transforms import v2

from stvit_video.data.coco.annotations import (
    CocoAnnotations,
    check_budget,
    read_annotations,
    write_bad_annotations,
)
from stvit_video.data.coco.dataset import (
    CocoImages,
    EvaluationImages,
    TrainingImages,
    eval_transform,
    image_files,
    require_pycocotools,
    train_transform,
)
from stvit_video.data.samplers import EvalBatchSampler, GroupedBatchSampler
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger

_SPLITS = ("train", "val", "test")

_log = get_logger(__name__)


def build_coco(cfg: CfgNode, split: str) -> CocoImages:
    """Build the data set of a split: "train", "val" or "test".

    Raises:
        UserError: pycocotools is not installed, the annotation file cannot be read, is malformed
            or has too many invalid annotations, none of its first images exists, or
            DETECTION.CACHE_DIR cannot be created.
    """
    require_pycocotools()
    annotations = read_annotations(
        annotation_file(cfg, split),
        num_classes=cfg.MODEL.NUM_CLASSES,
        only_with_objects=split == "train",
        cache_folder=_cache_folder(cfg),
    )
    check_budget(annotations.bad, max_bad=cfg.DETECTION.MAX_BAD_ANNOTATIONS)
    videos = image_files(annotations, _image_folder(cfg, split))
    if split != "train":
        return EvaluationImages(annotations, videos=videos, transform=build_eval_transform(cfg))
    detection = cfg.DETECTION
    transform = train_transform(
        short_sides=detection.TRAIN_SHORT_SIDES,
        max_size=detection.MAX_SIZE,
        crop_short_sides=detection.CROP_SHORT_SIDES,
        crop_range=detection.CROP_RANGE,
        flip=cfg.DATA.RANDOM_FLIP,
    )
    return TrainingImages(annotations, videos=videos, transform=transform, seed=cfg.RNG_SEED)


def build_eval_transform(cfg: CfgNode) -> v2.Transform:
    """Build the transform of images in evaluation and inference."""
    return eval_transform(short_side=cfg.DETECTION.TEST_SHORT_SIDE, max_size=cfg.DETECTION.MAX_SIZE)


def build_coco_sampler(
    cfg: CfgNode, split: str, annotations: CocoAnnotations, *, rank: int, world_size: int
) -> GroupedBatchSampler | EvalBatchSampler:
    """Build the batch sampler of a split for one rank.

    Raises:
        UserError: there are too few training images for one step.
    """
    if split != "train":
        size = len(annotations.paths)
        return EvalBatchSampler(size, batch_size=1, rank=rank, world_size=world_size)
    sampler = GroupedBatchSampler(
        annotations.is_wide.astype(int).tolist(),
        batch_size=cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS,
        rank=rank,
        world_size=world_size,
        seed=cfg.RNG_SEED,
    )
    if not len(sampler):
        raise UserError(
            f"{annotations.paths.csv_path} lists {len(annotations.paths)} images with objects, and "
            "neither the wide nor the tall ones fill one step of all ranks; lower TRAIN.BATCH_SIZE"
        )
    return sampler


def log_left_out(cfg: CfgNode, annotations: CocoAnnotations) -> None:
    """Log how many images and annotations are left out, and list the annotations in a file."""
    if not distributed.is_main():
        return
    source = annotations.paths.csv_path
    if annotations.num_without_objects:
        _log.info(
            "%d images of %s are left out because they have no objects",
            annotations.num_without_objects,
            source,
        )
    if annotations.bad:
        file = Path(cfg.OUTPUT_DIR) / "annotations_left_out.csv"
        write_bad_annotations(file, annotations.bad)
        _log.warning(
            "%d invalid annotations of %s are left out; %s lists them",
            len(annotations.bad),
            source,
            file,
        )


def split_files(cfg: CfgNode) -> dict[str, tuple[Path, Path]]:
    """Return the annotation file and the image folder of each of DETECTION.SPLITS by its name."""
    return {
        _name(cfg, split): (annotation_file(cfg, split), _image_folder(cfg, split))
        for split in _SPLITS
    }


def annotation_file(cfg: CfgNode, split: str) -> Path:
    """Return the path of a split's annotation file."""
    folder = Path(cfg.DATA.PATH_TO_DATA_DIR) / "annotations"
    return folder / f"instances_{_name(cfg, split)}.json"


def _image_folder(cfg: CfgNode, split: str) -> Path:
    return Path(cfg.DATA.PATH_TO_DATA_DIR) / _name(cfg, split)


def _name(cfg: CfgNode, split: str) -> str:
    return cfg.DETECTION.SPLITS[_SPLITS.index(split)]


def _cache_folder(cfg: CfgNode) -> Path:
    if not cfg.DETECTION.CACHE_DIR:
        return Path(cfg.OUTPUT_DIR) / "cache"
    folder = Path(cfg.DETECTION.CACHE_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"DETECTION.CACHE_DIR cannot be created: {error}") from error
    return folder
