"""Detecting in all images of a split, on all ranks, and measuring what was found."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.coco.dataset import CocoImages
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.detection.average_precision import average_precision
from stvit_video.engine.detection.results import to_coco, to_original
from stvit_video.engine.objective import Batch, normalised_images
from stvit_video.engine.precision import Normalise, Precision
from stvit_video.engine.what_was_read import say_what_was_read
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import (
    ShouldStop,
    agreed,
    never,
    share_running_statistics,
    until,
)
from stvit_video.runtime.logging import progress
from stvit_video.runtime.process import map_by_single_threads


@dataclass(frozen=True)
class Evaluated:
    """What a detector finds in the images of a split.

    Attributes:
        measured: average precisions in percent, and ``num_videos``, the images they are of.
        results: of all images in the order of the data set, in COCO's format; on rank 0 alone.
        left_out: images that could not be read.
    """

    measured: dict[str, float]
    results: list[dict[str, Any]]
    left_out: list[BadVideo]


def evaluate_detector(
    model: nn.Module,
    loader: VideoLoader,
    *,
    normalise: Normalise,
    precision: Precision,
    should_stop: ShouldStop = never,
) -> Evaluated | None:
    """Detect in this rank's share of the images, and measure all ranks'; all must call this.

    Images are looked at one by one, on the CPU by one thread each, so what is found in one is the
    same bit for bit however many ranks there are.

    Args:
        model: left in the mode, training or evaluation, that it was in; not wrapped in DDP.
        loader: this rank's share of the images.
        normalise: uint8 images -> float images on the device.
        precision: of the forward passes.
        should_stop: asked after every batch.

    Returns:
        the same measurements on all ranks; or None on all, if any was asked to stop.

    Raises:
        UserError: too many images cannot be read, or none can, or scores are not finite.
    """
    dataset = loader.dataset
    assert isinstance(dataset, CocoImages)
    share_running_statistics(model)
    was_training = model.training
    model.eval()
    batches = progress(until(loader, should_stop), total=len(loader), description="detection")
    detect = partial(_detect, model, dataset, normalise=normalise, precision=precision)
    on_cpu = normalise.device.type == "cpu"
    own = _merge(map_by_single_threads(detect, batches) if on_cpu else map(detect, batches))
    model.train(was_training)
    loader.quarantine.share()
    if agreed(should_stop)():
        return None
    found = _merge(distributed.gather_objects(own))
    left_out = [bad for bad in loader.quarantine.bad if bad.index not in found]
    seen = sorted([*found, *(bad.index for bad in left_out)])
    assert seen == list(range(len(dataset))), "images missing or repeated"
    say_what_was_read("The evaluation", "image", read=len(found), expected=len(dataset))
    measured, results = {}, [result for index in sorted(found) for result in found[index]]
    if distributed.is_main():
        measured = average_precision(
            dataset.annotations.paths.csv_path,
            results,
            image_ids=[dataset.annotations.images[index].id for index in sorted(found)],
            left_out={bad.id for bad in dataset.annotations.bad},
        )
        measured["box_AP_err"] = 100.0 - measured.get("box_AP", 0.0)
        measured["num_videos"] = len(found)
    return Evaluated(distributed.broadcast_object(measured), results, left_out)


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write results as a JSON file that COCO's tools read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(results)) + "\n", encoding="utf-8")


def format_table(measured: dict[str, float]) -> str:
    """Return a table of average precisions for the log."""
    figures = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    lines = ["      " + "".join(f"{figure:>7}" for figure in figures)]
    for name in ("box", "mask"):
        values = [measured.get(f"{name}_{figure}") for figure in figures]
        shown = ["-" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"{name:<6}" + "".join(f"{text:>7}" for text in shown))
    return "\n".join(lines)


@torch.no_grad()
def _detect(
    model: nn.Module,
    dataset: CocoImages,
    batch: Batch,
    *,
    normalise: Normalise,
    precision: Precision,
) -> dict[int, list[dict[str, Any]]]:
    """Give the results of the images of a batch, by their index in the data set."""
    with precision.autocast():
        detections = model(normalised_images(batch, normalise), batch["size"])
    found = {}
    for position, detected in enumerate(detections):
        if not detected["scores"].isfinite().all() or not detected["boxes"].isfinite().all():
            raise UserError(
                f"The detections in {batch['video_name'][position]} are not finite: the weights "
                "are damaged, or float16 is too narrow for them (set "
                "TRAIN.MIXED_PRECISION_DTYPE bfloat16)."
            )
        size, original = batch["size"][position], batch["original_size"][position]
        found[batch["video_index"][position]] = to_coco(
            to_original(detected, size=size, original_size=original),
            image_id=batch["image_id"][position],
            size=original,
            category_ids=dataset.annotations.category_ids,
        )
    return found


def _merge(parts: Iterable[dict[int, list[dict[str, Any]]]]) -> dict[int, list[dict[str, Any]]]:
    merged: dict[int, list[dict[str, Any]]] = {}
    for part in parts:
        assert not merged.keys() & part.keys(), "images repeated"
        merged.update(part)
    return merged
