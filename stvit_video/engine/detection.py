"""Evaluate a detector on all images of a split, with COCO's metrics."""

import contextlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from stvit_video.data.bad_videos import BadVideo, report_unread, write_bad_videos
from stvit_video.data.coco.dataset import CocoImages, encode_mask
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.metrics import memory_stats
from stvit_video.engine.precision import Normalize, Precision
from stvit_video.engine.step import Batch, normalized_images
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import sha256
from stvit_video.runtime.distributed import (
    ShouldStop,
    broadcast_running_statistics,
    never,
    on_any_rank,
    until,
)
from stvit_video.runtime.logging import get_logger, log_json_stats, progress
from stvit_video.runtime.process import map_in_threads

# pycocotools' IoU types, and the prefixes of our metrics.
_IOU_TYPES = (("bbox", "box"), ("segm", "mask"))
# The first six entries of COCOeval.stats.
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Lowest probability of a pixel that belongs to an object.
_MASK_THRESHOLD = 0.5
# Masks pasted into the image at once, which bounds the memory.
_MASKS_PER_CHUNK = 16

_log = get_logger(__name__)


@dataclass(frozen=True)
class DetectionEvaluation:
    """Metrics and detections of a detector on the images of a split.

    Attributes:
        metrics: average precisions in percent, and ``num_videos``, the number of images.
        results: detections in all images in the order of the data set, in COCO's format; empty on
            all ranks but rank 0.
        left_out: images that could not be read.
    """

    metrics: dict[str, float]
    results: list[dict[str, Any]]
    left_out: list[BadVideo]


def evaluate_detector(
    model: nn.Module,
    loader: VideoLoader,
    *,
    normalize: Normalize,
    precision: Precision,
    should_stop: ShouldStop = never,
) -> DetectionEvaluation | None:
    """Detect in this rank's share of the images, and compute the metrics over all ranks.

    All ranks must call this function. On the CPU each image is processed by a single thread, so
    its detections are bitwise identical for any number of ranks.

    Args:
        model: not wrapped in DDP; returned to its training or evaluation mode.
        loader: this rank's share of the images.
        normalize: uint8 images -> float images on the device.
        precision: precision of the forward passes.
        should_stop: checked after every batch.

    Returns:
        the same metrics on all ranks, or None on all ranks if any of them was asked to stop.

    Raises:
        UserError: too many images cannot be read, or none can, or the scores are not finite.
    """
    dataset = loader.dataset
    assert isinstance(dataset, CocoImages)
    broadcast_running_statistics(model)
    was_training = model.training
    model.eval()
    batches = progress(until(loader, should_stop), total=len(loader), description="detection")
    detect = partial(_detect, model, dataset, normalize=normalize, precision=precision)
    on_cpu = normalize.device.type == "cpu"
    own = _merge(map_in_threads(detect, batches) if on_cpu else map(detect, batches))
    model.train(was_training)
    loader.bad_video_log.share()
    if on_any_rank(should_stop)():
        return None
    found = _merge(distributed.gather_objects(own))
    left_out = [bad for bad in loader.bad_video_log.bad if bad.index not in found]
    seen = sorted([*found, *(bad.index for bad in left_out)])
    assert seen == list(range(len(dataset))), "images missing or repeated"
    report_unread("The evaluation", "image", read=len(found), expected=len(dataset))
    metrics, results = {}, [result for index in sorted(found) for result in found[index]]
    if distributed.is_main():
        metrics = average_precision(
            dataset.annotations.paths.csv_path,
            results,
            image_ids=[dataset.annotations.images[index].id for index in sorted(found)],
            left_out={bad.id for bad in dataset.annotations.bad},
        )
        metrics["box_AP_err"] = 100.0 - metrics.get("box_AP", 0.0)
        metrics["num_videos"] = len(found)
    return DetectionEvaluation(distributed.broadcast_object(metrics), results, left_out)


@torch.no_grad()
def _detect(
    model: nn.Module,
    dataset: CocoImages,
    batch: Batch,
    *,
    normalize: Normalize,
    precision: Precision,
) -> dict[int, list[dict[str, Any]]]:
    """Return the detections in a batch of images, by index in the data set."""
    with precision.autocast():
        detections = model(normalized_images(batch, normalize), batch["size"])
    found = {}
    for position, detected in enumerate(detections):
        if not detected["scores"].isfinite().all() or not detected["boxes"].isfinite().all():
            raise UserError(
                f"The detections in {batch['video_name'][position]} are not finite: the weights "
                "are damaged, or they overflow in float16 (set TRAIN.MIXED_PRECISION_DTYPE "
                "bfloat16)."
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


def to_original(
    detections: Mapping[str, Tensor], *, size: tuple[int, int], original_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Scale the boxes of an image back to its original size, on the CPU.

    Args:
        detections: output of a detector, see :mod:`~stvit_video.models.detection.detector`.
        size: height and width of the detector's input.
        original_size: height and width of the file.
    """
    found = {name: value.cpu() for name, value in detections.items()}
    return {**found, "boxes": resize_boxes(found["boxes"], list(size), list(original_size))}


def paste_masks(masks: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Paste mask probabilities ``[n, 1, s, s]`` at boxes ``[n, 4]``: bool ``[n, H, W]``."""
    return paste_masks_in_image(masks, boxes, size)[:, 0] > _MASK_THRESHOLD


def to_coco(
    found: Mapping[str, Tensor],
    *,
    image_id: int,
    size: tuple[int, int],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Convert the detections in an image to COCO's result format.

    Args:
        found: detections, as :func:`to_original` returns them.
        image_id: id in the annotation file.
        size: height and width of the file.
        category_ids: category ids of the annotation file, in the order of labels.
    """
    encoded = [
        encode_mask(mask)
        for masks, boxes in zip(
            found["masks"].split(_MASKS_PER_CHUNK),
            found["boxes"].split(_MASKS_PER_CHUNK),
            strict=True,
        )
        for mask in paste_masks(masks, boxes, size=size)
    ]
    left, top, right, bottom = found["boxes"].unbind(dim=1)
    boxes = torch.stack([left, top, right - left, bottom - top], dim=1)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": box,
            "score": score,
            "segmentation": mask,
        }
        for label, box, score, mask in zip(
            found["labels"].tolist(), boxes.tolist(), found["scores"].tolist(), encoded, strict=True
        )
    ]


def average_precision(
    annotation_file: Path,
    results: Sequence[dict[str, Any]],
    *,
    image_ids: Sequence[int],
    left_out: Collection[int] = (),
) -> dict[str, float]:
    """Compute COCO's average precisions of boxes and masks.

    Args:
        annotation_file: the ground truth.
        results: detections in COCO's format, each with a box and a mask.
        image_ids: ids of the evaluated images; other images are ignored.
        left_out: ids of annotations that are ignored because they describe no object.

    Returns:
        ``box_AP``, ``box_AP50``, ..., ``mask_APl``, in percent. Metrics for a size without objects
        are missing.
    """
    from pycocotools.cocoeval import COCOeval  # an optional dependency

    truth = _load_ground_truth(annotation_file, left_out)
    metrics = {}
    for iou_type, name in _IOU_TYPES:
        # If a result has a box, pycocotools computes the area of its mask from the box.
        other = "segmentation" if iou_type == "bbox" else "bbox"
        own = [{k: v for k, v in result.items() if k != other} for result in results]
        # pycocotools prints its tables.
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes(own) if own else _build_coco({**truth.dataset, "annotations": []})
            evaluation = COCOeval(truth, found, iou_type)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = zip(_METRICS, evaluation.stats.tolist(), strict=False)
        # COCOeval returns -1 for a metric without objects.
        metrics.update({f"{name}_{key}": 100 * value for key, value in values if value >= 0})
    return metrics


def _load_ground_truth(annotation_file: Path, left_out: Collection[int]) -> Any:
    content = json.loads(annotation_file.read_bytes())
    annotations = []
    for annotation in content["annotations"]:
        if annotation["id"] in left_out:
            continue
        _, _, width, height = annotation["bbox"]
        annotations.append({"iscrowd": 0, "area": width * height, **annotation})
    return _build_coco({**content, "annotations": annotations})


def _build_coco(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def report_detection(
    evaluation: DetectionEvaluation,
    loader: VideoLoader,
    *,
    output_dir: Path,
    predictions_path: Path,
    checkpoint: Path,
    device: torch.device,
) -> None:
    """Write the detections, a summary and the skipped images, and log a table of the metrics.

    Args:
        evaluation: metrics and detections.
        loader: loader of the images.
        output_dir: OUTPUT_DIR of the run; its ``results`` get summary.json and left_out.csv.
        predictions_path: JSON file for the detections in COCO's format.
        checkpoint: the tested checkpoint.
        device: device whose memory is reported.
    """
    dataset = loader.dataset
    assert isinstance(dataset, CocoImages)
    folder = output_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    predictions_path.parent.mkdir(parents=True, exist_ok=True)
    predictions_path.write_text(json.dumps(evaluation.results) + "\n", encoding="utf-8")
    write_bad_videos(folder / "left_out.csv", evaluation.left_out)
    counts = {
        "num_videos_expected": len(dataset),
        "num_left_out": len(evaluation.left_out),
        "num_annotations_left_out": len(dataset.annotations.bad),
    }
    summary = {
        **evaluation.metrics,
        **counts,
        "annotations": str(dataset.annotations.paths.csv_path.resolve()),
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": sha256(checkpoint),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    _log.info("Test of %s\n%s", checkpoint, format_table(evaluation.metrics))
    _log.info("Results are in %s", folder)
    log_json_stats(
        {"_type": "test_final", **evaluation.metrics, **counts, **memory_stats(device)},
        output_dir=output_dir,
    )


def format_table(metrics: dict[str, float]) -> str:
    """Return a table of average precisions for the log."""
    lines = ["      " + "".join(f"{metric:>7}" for metric in _METRICS)]
    for _, name in _IOU_TYPES:
        values = [metrics.get(f"{name}_{metric}") for metric in _METRICS]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"{name:<6}" + "".join(f"{cell:>7}" for cell in cells))
    return "\n".join(lines)
