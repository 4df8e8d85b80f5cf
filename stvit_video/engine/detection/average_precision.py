"""Average precision of boxes and masks, by pycocotools."""

import contextlib
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

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
