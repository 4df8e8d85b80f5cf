"""From a config to the loader that all data sets share."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Sampler

from stvit_video.data.collate import collate as collate_videos
from stvit_video.data.guarded import Videos
from stvit_video.data.labeled_paths import LabeledPaths
from stvit_video.data.loader import VideoLoader
from stvit_video.data.quarantine import Quarantine
from stvit_video.data.samplers import replacement


def build_guarded_loader(
    cfg: CfgNode,
    dataset: Videos,
    paths: LabeledPaths,
    *,
    batch_sampler: Sampler[Any],
    is_train: bool,
    second_try: Videos | None = None,
    collate: Callable[[list[dict[str, Any]]], Any] = collate_videos,
) -> VideoLoader:
    """Build a loader that goes on when a sample cannot be read.

    In training another sample takes its place. In an evaluation it is left out: one over other
    samples than its list says would be wrong in silence.

    Args:
        cfg: the config.
        dataset: map-style.
        paths: of its samples.
        batch_sampler: lists of what the data set is indexed with.
        is_train: the samples are to train on.
        second_try: the same data set over another decoder, for what the first one cannot read.
        collate: makes a batch of samples.
    """
    replace = partial(replacement, num_samples=len(dataset), seed=cfg.RNG_SEED)
    return VideoLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.DEVICE != "cpu" and torch.cuda.is_available(),
        quarantine=Quarantine(
            paths,
            file=Path(cfg.OUTPUT_DIR) / "quarantine.csv",
            max_bad=cfg.DATA.MAX_BAD_VIDEOS,
            fate="replaced by another one" if is_train else "left out",
        ),
        second_try=second_try,
        replace=replace if is_train else None,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        collate=collate,
    )
