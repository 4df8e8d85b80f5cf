"""Cascade R-CNN: stages of box and mask heads, each of which refines the boxes of the previous one.

Each stage is a torchvision ``RoIHeads`` with its own IoU threshold and box coder, which provides
the matcher, sampler, pooling, heads, NMS and mask loss. This module runs the stages in sequence,
following "Cascade R-CNN" (Cai and Vasconcelos, CVPR 2018) and, for class-specific regression, the
released recipe.

Notation: B images, N boxes of all images of a batch, P boxes that are matched to an object,
n boxes and m objects of an image, K classes including the background, which is the first; H W size
of an image, h w size of a feature map, C channels, s side of a mask.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

FeatureMaps = Mapping[str, Tensor]
ImageSizes = Sequence[tuple[int, int]]  # rows and columns of each image
Target = Mapping[str, Tensor]

_GIOU_WEIGHT = 10.0


class BoxLoss(Protocol):
    """Box regression loss, summed over boxes."""

    def __call__(
        self, coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
    ) -> Tensor:
        """Map offsets, boxes and true boxes, each ``[P, 4]``, to a scalar."""


class _Samples(NamedTuple):
    """Training samples of a stage, one tensor for each image.

    Attributes:
        boxes: ``[n, 4]``.
        matched: index of the matched object, ``[n]``; 0 without a match.
        labels: class, ``[n]``; 0 for the background.
        true_boxes: box of the matched object, ``[n, 4]``.
    """

    boxes: list[Tensor]
    matched: list[Tensor]
    labels: list[Tensor]
    true_boxes: list[Tensor]


class CascadeHeads(nn.Module):
    """Box and mask heads of all stages.

    Args:
        stages: heads in the order of the cascade; all have the same classes.
        weights: loss weight of each stage.
        box_loss: box regression loss.
    """

    def __init__(
        self, stages: Sequence[RoIHeads], *, weights: Sequence[float], box_loss: BoxLoss
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.weights = tuple(weights)
        self.box_loss = box_loss

    def losses(
        self,
        maps: FeatureMaps,
        proposals: list[Tensor],
        sizes: ImageSizes,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of all stages.

        Args:
            maps: feature maps ``[B, C, h, w]`` by name.
            proposals: boxes ``[n, 4]`` of each image.
            sizes: rows and columns of each image, without padding.
            targets: ``boxes`` [m, 4], ``labels`` [m] from 1 on and ``masks`` [m, H, W] of each
                image.

        Returns:
            ``stage0_loss_classifier``, ``stage0_loss_box_reg``, ``stage0_loss_mask``, ...
        """
        losses = {}
        for index, (stage, weight) in enumerate(zip(self.stages, self.weights, strict=True)):
            samples = _select_samples(stage, proposals, targets)
            logits, offsets = _classify(stage, maps, samples.boxes, sizes)
            labels = torch.cat(samples.labels)
            parts = {
                "loss_classifier": F.cross_entropy(logits, labels),
                "loss_box_reg": self._box_loss(stage, offsets, samples),
                "loss_mask": _mask_loss(stage, maps, samples, sizes, targets),
            }
            losses.update({f"stage{index}_{name}": weight * part for name, part in parts.items()})
            if index + 1 < len(self.stages):
                classes = torch.where(labels > 0, labels, _best_object_class(logits))
                refined = _refine(stage, offsets, samples.boxes, classes, sizes)
                proposals = _remove_true_boxes(refined, samples)
        return losses

    def detect(
        self, maps: FeatureMaps, proposals: list[Tensor], sizes: ImageSizes
    ) -> list[dict[str, Tensor]]:
        """Detect the objects of each image.

        Scores are based on the mean of all stages' logits, each for its own boxes. Masks are the
        mean of all stages' masks.

        Returns:
            for each image ``boxes`` [n, 4], ``labels`` [n], ``scores`` [n] in descending order,
            and ``masks`` [n, 1, s, s], probabilities over the box.
        """
        stage_logits = []
        for index, stage in enumerate(self.stages):
            logits, offsets = _classify(stage, maps, proposals, sizes)
            stage_logits.append(logits)
            if index + 1 < len(self.stages):
                classes = _best_object_class(logits)
                proposals = _refine(stage, offsets, proposals, classes, sizes)
        logits = torch.stack(stage_logits).mean(dim=0)
        last: RoIHeads = self.stages[-1]
        detections = last.postprocess_detections(logits, offsets, proposals, list(sizes))
        masks = self._masks(maps, boxes=detections[0], labels=detections[2], sizes=sizes)
        return [
            {"boxes": boxes, "scores": scores, "labels": labels, "masks": image_masks}
            for boxes, scores, labels, image_masks in zip(*detections, masks, strict=True)
        ]

    def _box_loss(self, stage: RoIHeads, offsets: Tensor, samples: _Samples) -> Tensor:
        labels = torch.cat(samples.labels)
        (positive,) = torch.where(labels > 0)
        loss = self.box_loss(
            stage.box_coder,
            offsets=offsets.unflatten(1, (-1, 4))[positive, labels[positive]],
            boxes=torch.cat(samples.boxes)[positive],
            true_boxes=torch.cat(samples.true_boxes)[positive],
        )
        return loss / len(labels)

    def _masks(
        self, maps: FeatureMaps, *, boxes: list[Tensor], labels: list[Tensor], sizes: ImageSizes
    ) -> list[Tensor]:
        stage_masks = [
            maskrcnn_inference(_mask_logits(stage, maps, boxes, sizes), labels)
            for stage in self.stages
        ]
        return [torch.stack(masks).mean(dim=0) for masks in zip(*stage_masks, strict=True)]


def _select_samples(
    stage: RoIHeads, proposals: list[Tensor], targets: Sequence[Target]
) -> _Samples:
    boxes, matched, labels, _ = stage.select_training_samples(proposals, list(targets))
    true_boxes = [
        target["boxes"][indices] if len(target["boxes"]) else torch.zeros_like(image_boxes)
        for target, indices, image_boxes in zip(targets, matched, boxes, strict=True)
    ]
    return _Samples(boxes, matched, labels, true_boxes)


def _classify(
    stage: RoIHeads, maps: FeatureMaps, boxes: list[Tensor], sizes: ImageSizes
) -> tuple[Tensor, Tensor]:
    """Return the logits ``[N, K]`` and the offsets ``[N, 4 K]`` of boxes, in float32."""
    pooled = stage.box_roi_pool(maps, boxes, list(sizes))
    logits, offsets = stage.box_predictor(stage.box_head(pooled))
    return logits.float(), offsets.float()


def _mask_logits(
    stage: RoIHeads, maps: FeatureMaps, boxes: list[Tensor], sizes: ImageSizes
) -> Tensor:
    pooled = stage.mask_roi_pool(maps, boxes, list(sizes))
    return stage.mask_predictor(stage.mask_head(pooled)).float()


def _mask_loss(
    stage: RoIHeads,
    maps: FeatureMaps,
    samples: _Samples,
    sizes: ImageSizes,
    targets: Sequence[Target],
) -> Tensor:
    positive = [labels > 0 for labels in samples.labels]
    boxes = [each[keep] for each, keep in zip(samples.boxes, positive, strict=True)]
    matched = [each[keep] for each, keep in zip(samples.matched, positive, strict=True)]
    logits = _mask_logits(stage, maps, boxes, sizes)
    masks = [target["masks"] for target in targets]
    return maskrcnn_loss(logits, boxes, masks, [target["labels"] for target in targets], matched)


def _best_object_class(logits: Tensor) -> Tensor:
    """Return the most likely class other than the background, ``[N]``."""
    return logits[:, 1:].argmax(dim=1) + 1


def _refine(
    stage: RoIHeads, offsets: Tensor, boxes: list[Tensor], classes: Tensor, sizes: ImageSizes
) -> list[Tensor]:
    """Apply the offsets of one class to each box, and clip boxes to their images."""
    decoded = stage.box_coder.decode(offsets.detach(), boxes)
    moved = decoded[torch.arange(len(classes), device=classes.device), classes]
    split = moved.split([len(each) for each in boxes])
    return [clip_boxes_to_image(each, size) for each, size in zip(split, sizes, strict=True)]


def _remove_true_boxes(refined: list[Tensor], samples: _Samples) -> list[Tensor]:
    # The samples of a stage include the true boxes, which the next stage would add again.
    return [
        moved[(boxes != true_boxes).any(dim=1)]
        for moved, boxes, true_boxes in zip(refined, samples.boxes, samples.true_boxes, strict=True)
    ]


def giou_loss(coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """Compute 10 times the generalized IoU loss of the decoded boxes, as in the released recipe."""
    decoded = coder.decode_single(offsets, boxes)
    return _GIOU_WEIGHT * generalized_box_iou_loss(decoded, true_boxes, reduction="sum")


def smooth_l1_loss(
    coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
) -> Tensor:
    """Compute the smooth L1 loss of the offsets, as in Faster and Mask R-CNN."""
    targets = coder.encode_single(true_boxes, boxes)
    return F.smooth_l1_loss(offsets, targets, beta=1 / 9, reduction="sum")


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with statistics over all ranks in training.

    The same as torch's ``SyncBatchNorm``, which supports GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C, H, W]``; N may differ between ranks."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        # In float32 even under autocast, as in torch.
        return self._normalize(input.float()).to(input.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, "batch norm with a cumulative average is not supported"
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        dims = (0, 2, 3)
        count = x.new_full((1,), x.numel() / x.shape[1])
        *sums, total = all_reduce(torch.cat([x.sum(dims), count])).split(x.shape[1])
        mean = sums[0] / total
        centered = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centered.square().sum(dims)) / total
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
