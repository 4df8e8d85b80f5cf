"""Cascade Mask R-CNN, put together from its parts: backbone, pooling and heads.

Letters: B images, H rows and W columns of the padded batch, n boxes, m objects of an image.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from stvit_video.models.detection.cascade import CascadeHeads, Sizes


class PyramidBackbone(nn.Module):
    """Feature maps of every stage of a backbone, each behind a norm of its own.

    Args:
        body: has ``forward_pyramid``, from images ``[B, 3, H, W]`` to a grid ``[B, 1, h, w, C]``
            for each stage; its classifier and final norm must be gone, as nothing trains them.
        channels: C of each stage.
    """

    def __init__(self, body: nn.Module, *, channels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images ``[B, 3, H, W]`` to maps ``[B, C, h, w]``, "0" the largest."""
        grids = self.body.forward_pyramid(images)  # type: ignore[operator]
        return {
            str(stage): norm(grid.squeeze(1)).permute(0, 3, 1, 2)
            for stage, (norm, grid) in enumerate(zip(self.norms, grids, strict=True))
        }


# Of the feature pyramid's paper: a box of 224 pixels is pooled from the map of stride 16.
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4


class PyramidRoIAlign(MultiScaleRoIAlign):
    """torchvision's pooling, which would take the strides from the first batch that it sees.

    It compares maps with images without their padding there, so a first batch of small images
    with much padding would make all later ones be pooled at wrong places.

    Args:
        strides: of the maps "0", "1", ..., rising powers of two.
        side: rows and columns of what is pooled.
    """

    def __init__(self, strides: Sequence[int], *, side: int) -> None:
        super().__init__([str(index) for index in range(len(strides))], side, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.map_levels = initLevelMapper(
            first, last, canonical_scale=_CANONICAL_SIDE, canonical_level=_CANONICAL_LEVEL
        )


class FloatRPNHead(RPNHead):
    """torchvision's head of the region proposal network, with float32 outputs under autocast.

    They are decoded to pixels: in bfloat16, with its 8 significant bits, the place of a box in an
    image of 1333 pixels would be off by up to four of them.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map feature maps to objectness ``[B, A, h, w]`` and offsets ``[B, 4 A, h, w]``."""
        logits, offsets = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in offsets]


class CascadeMaskRCNN(nn.Module):
    """A detector that also outlines what it finds.

    Args:
        backbone: images to a map for each stage.
        fpn: the maps to as many of equal channels, and further smaller ones.
        rpn: maps to proposals.
        roi_heads: maps and proposals to detections.
    """

    def __init__(
        self,
        *,
        backbone: PyramidBackbone,
        fpn: FeaturePyramidNetwork,
        rpn: RegionProposalNetwork,
        roi_heads: CascadeHeads,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(
        self,
        images: Tensor,
        sizes: Sizes,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Give the losses of a batch with targets, the detections of one without.

        Args:
            images: normalized ``[B, 3, H, W]``, padded at the bottom and on the right.
            sizes: rows and columns of each image, without padding.
            targets: ``boxes`` [m, 4] (left, top, right, bottom, in pixels), ``labels`` int64 [m]
                from 1 on, ``masks`` uint8 [m, rows, columns], for each image; in training only.

        Returns:
            losses by name, or ``boxes`` [n, 4], ``scores`` [n], ``labels`` [n] and ``masks``
            [n, 1, s, s] (probabilities over the box) of each image.
        """
        assert self.training == (targets is not None), "targets are for training alone"
        # In float32 they make anchors, and pool features, exactly; convolutions convert for
        # themselves under autocast.
        maps = {name: each.float() for name, each in self.fpn(self.backbone(images)).items()}
        image_list = ImageList(images, list(sizes))
        proposals, rpn_losses = self.rpn(image_list, maps, targets)
        if targets is None:
            return self.roi_heads.detect(maps, proposals, sizes)
        losses = {f"rpn_{name}": loss for name, loss in rpn_losses.items()}
        return losses | self.roi_heads.losses(maps, proposals, sizes, targets)
