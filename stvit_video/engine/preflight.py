"""Check a run for mistakes before any long work starts."""

import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.build import build_dataset, build_loader
from stvit_video.data.check.journal import Journal
from stvit_video.data.check.videos import check_videos
from stvit_video.data.coco.dataset import CocoImages
from stvit_video.data.kinetics import VideoDataset
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.engine.checkpoint import checkpoint_folder
from stvit_video.engine.evaluate import predictions_path
from stvit_video.engine.results import build_class_names
from stvit_video.engine.resume import (
    BEST,
    ResumePoint,
    check_resume,
    checkpoint_to_test,
    load_initial_weights,
    load_test_weights,
)
from stvit_video.errors import UserError
from stvit_video.models import build_model

# Videos decoded per split: the first one and random others.
_NUM_SAMPLES = 4


def preflight(cfg: CfgNode, *, is_in_use: bool = False) -> ResumePoint | None:
    """Read every file that a run needs, and build its model.

    So a missing test.csv does not cost hours of training. Runs in the process that starts the
    ranks.

    Args:
        cfg: the config.
        is_in_use: another run is training in OUTPUT_DIR until this one starts.

    Returns:
        Where training resumes; None if it starts from the beginning, or there is no training.

    Raises:
        UserError: the first mistake found.
    """
    for split in _used_splits(cfg):
        build_dataset(cfg, split)
    model = build_model(cfg)
    resume_point = None
    if cfg.TRAIN.ENABLE:
        resume_point = check_resume(cfg, model, is_in_use=is_in_use)
        if cfg.TRAIN.CHECKPOINT_FILE_PATH and resume_point is None:
            load_initial_weights(cfg, model)
    if cfg.TEST.ENABLE:
        _check_test(cfg, model)
    return resume_point


def _used_splits(cfg: CfgNode) -> list[str]:
    return ["train", "val"] * cfg.TRAIN.ENABLE + ["test"] * cfg.TEST.ENABLE


def _check_test(cfg: CfgNode, model: nn.Module) -> None:
    build_class_names(cfg)
    if predictions_path(cfg).is_dir():
        raise UserError(
            f"TEST.SAVE_RESULTS_PATH must be a file, but {predictions_path(cfg)} is a folder; "
            "add a file name."
        )
    path = Path(cfg.TEST.CHECKPOINT_FILE_PATH)
    is_own = cfg.TEST.CHECKPOINT_FILE_PATH in ("", BEST)
    own_checkpoints = checkpoint_folder(cfg.OUTPUT_DIR).resolve()
    if cfg.TRAIN.ENABLE and (is_own or path.parent.resolve() == own_checkpoints):
        return  # training will write it
    load_test_weights(cfg, model, checkpoint_to_test(cfg))


def write_placeholder(cfg: CfgNode, path: Path) -> None:
    """Write a checkpoint with untrained weights, like those that the run of ``cfg`` will write.

    With it, a run that starts from these checkpoints can be checked before they exist.
    """
    state = build_model(cfg).state_dict()
    torch.save({"model_state": state, **({"ema_state": state} if cfg.EMA.ENABLE else {})}, path)


def preflight_data(cfg: CfgNode) -> list[str]:
    """Build the data loaders of a run for all of its ranks, and decode a sample of each split.

    The first video of each split and some random ones are decoded in another process, so a video
    that crashes the decoder is detected too.

    Returns:
        Warnings that do not prevent the run.

    Raises:
        UserError: the data set cannot be read, is too small for one step of all ranks, or most
            of the sampled videos cannot be decoded.
    """
    warnings = []
    for split in _used_splits(cfg):
        loader = build_loader(cfg, split, rank=0, world_size=cfg.NUM_GPUS * cfg.NUM_SHARDS)
        dataset = loader.dataset
        assert isinstance(dataset, VideoDataset | CocoImages)
        videos = dataset.videos
        if split == "train" and isinstance(dataset, VideoDataset):
            warnings += _check_classes(videos.paths, num_classes=cfg.MODEL.NUM_CLASSES)
        warnings += _check_sample(
            videos,
            seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
            allows_bad_videos=cfg.DATA.MAX_BAD_VIDEOS > 0,
        )
    return warnings


def _check_classes(paths: LabeledPaths, *, num_classes: int) -> list[str]:
    num_present = len({label for _, label in paths})
    if num_present == num_classes:
        return []
    return [f"{paths.csv_path} has {paths.items} of {num_present} of the {num_classes} classes"]


def _check_sample(
    videos: LabeledVideos, *, seconds_per_video: float, allows_bad_videos: bool
) -> list[str]:
    others = range(1, len(videos))
    indices = [0, *sorted(random.sample(others, min(_NUM_SAMPLES - 1, len(others))))]
    bad = _find_bad_videos(videos, indices, seconds_per_video=seconds_per_video)
    if not bad:
        return []
    message = (
        f"{len(bad)} of {len(indices)} {videos.paths.items} sampled from {videos.paths.csv_path} "
        "cannot be read"
    )
    if 2 * len(bad) > len(indices) or not allows_bad_videos:
        raise UserError(f"{message} ({bad[0]}); run tools/check_data.py to list all of them")
    return [f"{message}: {'; '.join(map(str, bad))}"]


def _find_bad_videos(
    videos: LabeledVideos, indices: Sequence[int], *, seconds_per_video: float
) -> list[BadVideo]:
    entries = [
        Entry(videos.paths.line(index), str(videos.file(index)), videos.paths[index][1])
        for index in indices
    ]
    sample = LabeledVideos(
        LabeledPaths(videos.paths.csv_path, entries), prefix="", backend=videos.backend
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Journal(Path(folder) / "journal.jsonl", way="")) as journal,
    ):
        facts = check_videos(
            sample,
            journal=journal,
            every_frame=False,
            num_workers=1,
            seconds_per_video=seconds_per_video,
            title=videos.paths.csv_path.name,
        )
    return [
        videos.bad_video(index, video.error, crashes_worker=video.crashes_worker)
        for index, video in zip(indices, facts, strict=True)
        if video.error
    ]
