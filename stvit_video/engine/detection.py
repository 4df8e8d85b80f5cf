"""Detect in all images of a split, on all ranks; measure and report what was found."""

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

# pycocotools' names, ours, and the first six of its figures.
_KINDS = (("bbox", "box"), ("segm", "mask"))
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def average_precision(
    annotation_file: Path,
    results: Sequence[dict[str, Any]],
    *,
    image_ids: Sequence[int],
    left_out: Collection[int] = (),
) -> dict[str, float]:
    """Measure detections as COCO does.

    Args:
        annotation_file: the truth.
        results: in COCO's format, each with box and mask.
        image_ids: of the images that were looked at; the others do not count.
        left_out: ids of annotations that describe no object.

    Returns:
        ``box_AP``, ``box_AP50``, ..., ``mask_APl``, in percent; one of a size that no object has
        is missing.
    """
    from pycocotools.cocoeval import COCOeval  # an extra of this package

    truth = _truth(annotation_file, left_out)
    measured = {}
    for kind, name in _KINDS:
        # Where there is a box, pycocotools would take a mask's area from it.
        other = "segmentation" if kind == "bbox" else "bbox"
        own = [{k: v for k, v in result.items() if k != other} for result in results]
        # It prints its tables.
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes(own) if own else _index({**truth.dataset, "annotations": []})
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures = zip(_FIGURES, evaluation.stats.tolist(), strict=False)
        # -1 stands for none.
        measured.update({f"{name}_{key}": 100 * value for key, value in figures if value >= 0})
    return measured


def _truth(annotation_file: Path, left_out: Collection[int]) -> Any:
    content = json.loads(annotation_file.read_bytes())
    annotations = []
    for annotation in content["annotations"]:
        if annotation["id"] in left_out:
            continue
        _, _, width, height = annotation["bbox"]
        annotations.append({"iscrowd": 0, "area": width * height, **annotation})
    return _index({**content, "annotations": annotations})


def _index(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


# From this probability on a pixel belongs to an object.
_MASK_THRESHOLD = 0.5
# Masks that are spread over their image at a time, to bound the memory.
_CHUNK = 16


def to_original(
    detections: Mapping[str, Tensor], *, size: tuple[int, int], original_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Scale the boxes of an image back to its original size, on the CPU.

    Args:
        detections: of a detector, see :class:`~stvit_video.models.detection.detector`.
        size: rows and columns that the detector saw.
        original_size: rows and columns of the file.
    """
    found = {name: value.cpu() for name, value in detections.items()}
    return {**found, "boxes": resize_boxes(found["boxes"], list(size), list(original_size))}


def paste_masks(masks: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Spread probabilities ``[n, 1, s, s]`` over boxes ``[n, 4]`` to masks, bool ``[n, H, W]``."""
    return paste_masks_in_image(masks, boxes, size)[:, 0] > _MASK_THRESHOLD


def to_coco(
    found: Mapping[str, Tensor],
    *,
    image_id: int,
    size: tuple[int, int],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Write the detections of an image as COCO's results have them.

    Args:
        found: what :func:`to_original` gives.
        image_id: of the annotation file.
        size: rows and columns of the file.
        category_ids: of the annotation file, in the order of labels.
    """
    encoded = [
        encode_mask(mask)
        for masks, boxes in zip(
            found["masks"].split(_CHUNK), found["boxes"].split(_CHUNK), strict=True
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
    normalize: Normalize,
    precision: Precision,
    should_stop: ShouldStop = never,
) -> Evaluated | None:
    """Detect in this rank's share of the images, and measure all ranks'; all must call this.

    Images are looked at one by one, on the CPU by one thread each, so what is found in one is the
    same bit for bit however many ranks there are.

    Args:
        model: left in the mode, training or evaluation, that it was in; not wrapped in DDP.
        loader: this rank's share of the images.
        normalize: uint8 images -> float images on the device.
        precision: of the forward passes.
        should_stop: asked after every batch.

    Returns:
        the same measurements on all ranks; or None on all, if any was asked to stop.

    Raises:
        UserError: too many images cannot be read, or none can, or scores are not finite.
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
    normalize: Normalize,
    precision: Precision,
) -> dict[int, list[dict[str, Any]]]:
    """Give the results of the images of a batch, by their index in the data set."""
    with precision.autocast():
        detections = model(normalized_images(batch, normalize), batch["size"])
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


_log = get_logger(__name__)


def report_detection(
    evaluated: Evaluated,
    loader: VideoLoader,
    *,
    output_dir: Path,
    predictions_path: Path,
    checkpoint: Path,
    device: torch.device,
) -> None:
    """Write the results, a summary and the images that were left out, and log the table.

    Args:
        evaluated: what was found.
        loader: of the images.
        output_dir: of the run; its ``results`` get summary.json and left_out.csv.
        predictions_path: the JSON file in COCO's format.
        checkpoint: what was tested.
        device: whose memory is reported.
    """
    dataset = loader.dataset
    assert isinstance(dataset, CocoImages)
    folder = output_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_results(predictions_path, evaluated.results)
    write_bad_videos(folder / "left_out.csv", evaluated.left_out)
    counts = {
        "num_videos_expected": len(dataset),
        "num_left_out": len(evaluated.left_out),
        "num_annotations_left_out": len(dataset.annotations.bad),
    }
    summary = {
        **evaluated.measured,
        **counts,
        "annotations": str(dataset.annotations.paths.csv_path.resolve()),
        "checkpoint": str(checkpoint.resolve()),
        "checkpoint_sha256": sha256(checkpoint),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    _log.info("Test of %s\n%s", checkpoint, format_table(evaluated.measured))
    _log.info("Results are in %s", folder)
    log_json_stats(
        {"_type": "test_final", **evaluated.measured, **counts, **memory_stats(device)},
        output_dir=output_dir,
    )
