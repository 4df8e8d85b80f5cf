"""Detections in pixels of the original images, and in COCO's format.

Letters: n detections of an image, H rows and W columns of it, s side of a mask over its box.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from stvit_video.data.coco.dataset import encode_mask

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
