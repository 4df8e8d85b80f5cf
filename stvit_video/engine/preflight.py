"""Find what is wrong with a run before any long work starts."""

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

# Videos of a split that are tried: the first, and random ones.
_TRIED = 4


def preflight_data(cfg: CfgNode) -> list[str]:
    """Try the data set of a run as all its ranks will use it.

    The first video of each split and some random ones are decoded, in another process, so that
    one that crashes its decoder is found too.

    Returns:
        What is worth a line, though the run can start.

    Raises:
        UserError: the data set cannot be read, is too small for one step of all ranks, or most
            of the tried videos cannot be decoded.
    """
    notes = []
    for split in ["train", "val"] * cfg.TRAIN.ENABLE + ["test"] * cfg.TEST.ENABLE:
        loader = build_loader(cfg, split, rank=0, world_size=cfg.NUM_GPUS * cfg.NUM_SHARDS)
        dataset = loader.dataset
        assert isinstance(dataset, VideoDataset | CocoImages)
        videos = dataset.videos
        if split == "train" and isinstance(dataset, VideoDataset):
            notes += _absent_classes(videos.paths, num_classes=cfg.MODEL.NUM_CLASSES)
        notes += _try_videos(
            videos,
            seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
            tolerates_some=cfg.DATA.MAX_BAD_VIDEOS > 0,
        )
    return notes


def _absent_classes(paths: LabeledPaths, *, num_classes: int) -> list[str]:
    present = len({label for _, label in paths})
    if present == num_classes:
        return []
    return [f"{paths.csv_path} has {paths.items} of {present} of the {num_classes} classes"]


def _try_videos(
    videos: LabeledVideos, *, seconds_per_video: float, tolerates_some: bool
) -> list[str]:
    others = range(1, len(videos))
    chosen = [0, *sorted(random.sample(others, min(_TRIED - 1, len(others))))]
    bad = _undecodable(videos, chosen, seconds_per_video=seconds_per_video)
    if not bad:
        return []
    what = f"{videos.paths.items} tried of {videos.paths.csv_path}"
    found = f"{len(bad)} of {len(chosen)} {what} cannot be read"
    if 2 * len(bad) > len(chosen) or not tolerates_some:
        raise UserError(f"{found} ({bad[0]}); tools/check_data.py finds all of them")
    return [f"{found}: {'; '.join(map(str, bad))}"]


def _undecodable(
    videos: LabeledVideos, chosen: Sequence[int], *, seconds_per_video: float
) -> list[BadVideo]:
    entries = [
        Entry(videos.paths.line(index), str(videos.file(index)), videos.paths[index][1])
        for index in chosen
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
        for index, video in zip(chosen, facts, strict=True)
        if video.error
    ]


def preflight(cfg: CfgNode, *, is_in_use: bool = False) -> ResumePoint | None:
    """Read every file that a run will need, and build its model.

    So hours of training are not lost to a test.csv that is missing. Runs in the process that
    starts the ranks.

    Args:
        cfg: the config.
        is_in_use: another run trains in OUTPUT_DIR until this one starts.

    Returns:
        Where training goes on; None if it begins anew, or there is none.

    Raises:
        UserError: the first mistake that was found.
    """
    splits = ["train", "val"] * cfg.TRAIN.ENABLE + ["test"] * cfg.TEST.ENABLE
    for split in splits:
        build_dataset(cfg, split)
    model = build_model(cfg)
    resumes = None
    if cfg.TRAIN.ENABLE:
        resumes = check_resume(cfg, model, is_in_use=is_in_use)
        if cfg.TRAIN.CHECKPOINT_FILE_PATH and resumes is None:
            load_initial_weights(cfg, model)
    if cfg.TEST.ENABLE:
        _check_test(cfg, model)
    return resumes


def write_placeholder(cfg: CfgNode, path: Path) -> None:
    """Write a checkpoint like those that the run of ``cfg`` will leave, with untrained weights.

    So a run that is to start from them can be tried before they exist.
    """
    state = build_model(cfg).state_dict()
    torch.save({"model_state": state, **({"ema_state": state} if cfg.EMA.ENABLE else {})}, path)


def _check_test(cfg: CfgNode, model: nn.Module) -> None:
    build_class_names(cfg)
    if predictions_path(cfg).is_dir():
        raise UserError(
            f"TEST.SAVE_RESULTS_PATH names a file, but {predictions_path(cfg)} is a folder; "
            "add a file name."
        )
    path = Path(cfg.TEST.CHECKPOINT_FILE_PATH)
    is_ours = cfg.TEST.CHECKPOINT_FILE_PATH in ("", BEST)
    own_checkpoints = checkpoint_folder(cfg.OUTPUT_DIR).resolve()
    if cfg.TRAIN.ENABLE and (is_ours or path.parent.resolve() == own_checkpoints):
        return  # training will write it
    load_test_weights(cfg, model, checkpoint_to_test(cfg))
