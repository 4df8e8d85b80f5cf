"""Cascade R-CNN: stages of box and mask heads, each of which refines the boxes of the one before.

Each stage is torchvision's ``RoIHeads`` with an IoU threshold and a box coder of its own, of which
the parts are used (matcher, sampler, coder, pooling, heads, suppression, mask loss); only how the
stages follow one another is written here, after "Cascade R-CNN" (Cai and Vasconcelos, CVPR 2018)
and, where regression is for each class, the released recipe.

Letters: N boxes of all images of a batch, P boxes that are matched to an object, K classes with
the background, which is the first.
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

_GIOU_WEIGHT = 10.0


class BoxLoss(Protocol):
    """Sum over boxes of the error of their regression."""

    def __call__(
        self, coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
    ) -> Tensor:
        """Compare offsets ``[P, 4]`` of boxes ``[P, 4]`` with the true boxes ``[P, 4]``."""


def giou_loss(coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """Ten times the generalized IoU loss of the decoded boxes, as in the released recipe."""
    decoded = coder.decode_single(offsets, boxes)
    return _GIOU_WEIGHT * generalized_box_iou_loss(decoded, true_boxes, reduction="sum")


def smooth_l1_loss(
    coder: BoxCoder, *, offsets: Tensor, boxes: Tensor, true_boxes: Tensor
) -> Tensor:
    """The smooth L1 loss of the offsets, as in Faster and Mask R-CNN."""
    targets = coder.encode_single(true_boxes, boxes)
    return F.smooth_l1_loss(offsets, targets, beta=1 / 9, reduction="sum")


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all ranks together.

    torch's ``SyncBatchNorm`` does the same, but on GPUs alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``[N, C, H, W]``; the numbers N may differ between ranks."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        # As torch does, in float32 under autocast too.
        return self._normalize(input.float()).to(input.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, "a moving average is kept"
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


Maps = Mapping[str, Tensor]
Sizes = Sequence[tuple[int, int]]
Target = Mapping[str, Tensor]


class _Samples(NamedTuple):
    """What a stage is trained on, one tensor for each image."""

    boxes: list[Tensor]
    # Index of the object that a box is matched to; of the first one if to none.
    matched: list[Tensor]
    # Class, 0 for the background.
    labels: list[Tensor]
    true_boxes: list[Tensor]


class CascadeHeads(nn.Module):
    """Detections from proposals.

    Args:
        stages: in their order; all classify into the same classes.
        weights: of the losses of each stage.
        box_loss: compares the boxes of the regression with the true ones.
    """

    def __init__(
        self, stages: Sequence[RoIHeads], *, weights: Sequence[float], box_loss: BoxLoss
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.weights = tuple(weights)
        self.box_loss = box_loss

    def losses(
        self, maps: Maps, proposals: list[Tensor], sizes: Sizes, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of all stages.

        Args:
            maps: features ``[B, C, h, w]`` by name.
            proposals: boxes ``[n, 4]`` of each image.
            sizes: rows and columns of each image, without padding.
            targets: ``boxes`` [m, 4], ``labels`` [m] from 1 on and ``masks`` [m, H, W].

        Returns:
            ``stage0_loss_classifier``, ``stage0_loss_box_reg``, ``stage0_loss_mask``, ...
        """
        losses = {}
        for index, (stage, weight) in enumerate(zip(self.stages, self.weights, strict=True)):
            samples = _select(stage, proposals, targets)
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
                proposals = _without_true_boxes(refined, samples)
        return losses

    def detect(self, maps: Maps, proposals: list[Tensor], sizes: Sizes) -> list[dict[str, Tensor]]:
        """Find the objects of each image.

        Returns:
            For each image ``boxes`` [n, 4], ``labels`` [n], ``scores`` [n], the best first, and
            ``masks`` [n, 1, s, s], probabilities over the box. Logits are the mean of all stages'
            for the boxes that each saw, masks the mean of all stages' masks.
        """
        all_logits = []
        for index, stage in enumerate(self.stages):
            logits, offsets = _classify(stage, maps, proposals, sizes)
            all_logits.append(logits)
            if index + 1 < len(self.stages):
                classes = _best_object_class(logits)
                proposals = _refine(stage, offsets, proposals, classes, sizes)
        logits = torch.stack(all_logits).mean(dim=0)
        last: RoIHeads = self.stages[-1]
        found = last.postprocess_detections(logits, offsets, proposals, list(sizes))
        masks = self._masks(maps, boxes=found[0], labels=found[2], sizes=sizes)
        return [
            {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks_of_image}
            for boxes, scores, labels, masks_of_image in zip(*found, masks, strict=True)
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
        self, maps: Maps, *, boxes: list[Tensor], labels: list[Tensor], sizes: Sizes
    ) -> list[Tensor]:
        by_stage = [
            maskrcnn_inference(_mask_logits(stage, maps, boxes, sizes), labels)
            for stage in self.stages
        ]
        return [torch.stack(of_image).mean(dim=0) for of_image in zip(*by_stage, strict=True)]


def _select(stage: RoIHeads, proposals: list[Tensor], targets: Sequence[Target]) -> _Samples:
    boxes, matched, labels, _ = stage.select_training_samples(proposals, list(targets))
    true_boxes = [
        target["boxes"][indices] if len(target["boxes"]) else torch.zeros_like(boxes_of_image)
        for target, indices, boxes_of_image in zip(targets, matched, boxes, strict=True)
    ]
    return _Samples(boxes, matched, labels, true_boxes)


def _classify(
    stage: RoIHeads, maps: Maps, boxes: list[Tensor], sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Give the logits ``[N, K]`` and the offsets ``[N, 4 K]`` of boxes, in float32."""
    pooled = stage.box_roi_pool(maps, boxes, list(sizes))
    logits, offsets = stage.box_predictor(stage.box_head(pooled))
    return logits.float(), offsets.float()


def _mask_logits(stage: RoIHeads, maps: Maps, boxes: list[Tensor], sizes: Sizes) -> Tensor:
    pooled = stage.mask_roi_pool(maps, boxes, list(sizes))
    return stage.mask_predictor(stage.mask_head(pooled)).float()


def _mask_loss(
    stage: RoIHeads, maps: Maps, samples: _Samples, sizes: Sizes, targets: Sequence[Target]
) -> Tensor:
    positive = [labels > 0 for labels in samples.labels]
    boxes = [each[keep] for each, keep in zip(samples.boxes, positive, strict=True)]
    matched = [each[keep] for each, keep in zip(samples.matched, positive, strict=True)]
    logits = _mask_logits(stage, maps, boxes, sizes)
    masks = [target["masks"] for target in targets]
    return maskrcnn_loss(logits, boxes, masks, [target["labels"] for target in targets], matched)


def _best_object_class(logits: Tensor) -> Tensor:
    """The likeliest class ``[N]`` apart from the background."""
    return logits[:, 1:].argmax(dim=1) + 1


def _refine(
    stage: RoIHeads, offsets: Tensor, boxes: list[Tensor], classes: Tensor, sizes: Sizes
) -> list[Tensor]:
    """Move boxes by the offsets of one class each, within their images."""
    decoded = stage.box_coder.decode(offsets.detach(), boxes)
    moved = decoded[torch.arange(len(classes), device=classes.device), classes]
    split = moved.split([len(each) for each in boxes])
    return [clip_boxes_to_image(each, size) for each, size in zip(split, sizes, strict=True)]


def _without_true_boxes(refined: list[Tensor], samples: _Samples) -> list[Tensor]:
    # A stage's samples hold the true boxes, which the next stage adds by itself again.
    return [
        moved[(boxes != true_boxes).any(dim=1)]
        for moved, boxes, true_boxes in zip(refined, samples.boxes, samples.true_boxes, strict=True)
    ]
