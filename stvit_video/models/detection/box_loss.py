"""Losses of box regression: how far predicted offsets are from those of the true boxes.

Letters: P boxes that are matched to an object.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou_loss

_GIOU_WEIGHT = 10.0


class BoxLoss(Protocol):
    """Sum over boxes of the error of their regression."""

    def __call__(
        self, coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
    ) -> Tensor:
        """Compare offsets ``[P, 4]`` of boxes ``[P, 4]`` with the true boxes ``[P, 4]``."""


def giou_loss(coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """Ten times the generalised IoU loss of the decoded boxes, as in the released recipe."""
    decoded = coder.decode_single(offsets, boxes)
    return _GIOU_WEIGHT * generalized_box_iou_loss(decoded, true_boxes, reduction="sum")


def smooth_l1_loss(
    coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
) -> Tensor:
    """The smooth L1 loss of the offsets, as in Faster and Mask R-CNN."""
    targets = coder.encode_single(true_boxes, boxes)
    return F.smooth_l1_loss(offsets, targets, beta=1 / 9, reduction="sum")
