"""Cascade Mask R-CNN: backbone, feature pyramid, proposals and cascade heads.

Notation: B images, H rows and W columns of the padded batch, h w size of a feature map, C channels,
A anchors at each position, n boxes and m objects of an image, s side of a mask.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from stvit_video.models.detection.cascade import CascadeHeads, ImageSizes

# From the feature pyramid's paper: a box of 224 pixels is pooled from the map of stride 16.
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4


class PyramidBackbone(nn.Module):
    """Normalized feature maps of every stage of a backbone.

    Args:
        body: backbone whose ``forward_pyramid`` maps images ``[B, 3, H, W]`` to a grid
            ``[B, 1, h, w, C]`` for each stage. Its classifier and final norm must be removed, as
            nothing would train them.
        channels: channels C of each stage.
    """

    def __init__(self, body: nn.Module, *, channels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images ``[B, 3, H, W]`` to maps ``[B, C, h, w]`` by name; "0" is the largest."""
        grids = self.body.forward_pyramid(images)  # type: ignore[operator]
        return {
            str(stage): norm(grid.squeeze(1)).permute(0, 3, 1, 2)
            for stage, (norm, grid) in enumerate(zip(self.norms, grids, strict=True))
        }


class PyramidRoIAlign(MultiScaleRoIAlign):
    """torchvision's ``MultiScaleRoIAlign`` with fixed strides.

    torchvision infers the strides from the first batch, by comparing feature maps with the sizes
    of the images without padding. A first batch of small images with much padding would lead to
    wrong strides, and boxes would be pooled from wrong positions ever after.

    Args:
        strides: strides of the feature maps "0", "1", ..., increasing powers of two.
        side: rows and columns of the pooled features.
    """

    def __init__(self, strides: Sequence[int], *, side: int) -> None:
        super().__init__([str(index) for index in range(len(strides))], side, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.map_levels = initLevelMapper(
            first, last, canonical_scale=_CANONICAL_SIDE, canonical_level=_CANONICAL_LEVEL
        )


class FloatRPNHead(RPNHead):
    """torchvision's ``RPNHead`` with float32 outputs under autocast.

    Outputs are decoded to pixels. bfloat16 has 8 significant bits, so the position of a box in an
    image of 1333 pixels would be off by up to four pixels.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map feature maps to objectness ``[B, A, h, w]`` and offsets ``[B, 4 A, h, w]``."""
        logits, offsets = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in offsets]


class CascadeMaskRCNN(nn.Module):
    """Cascade Mask R-CNN for object detection and instance segmentation.

    Args:
        backbone: maps images to a feature map for each stage.
        fpn: feature pyramid network.
        rpn: region proposal network.
        roi_heads: maps feature maps and proposals to detections.
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
        sizes: ImageSizes,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Map images ``[B, 3, H, W]`` to losses in training, otherwise to detections.

        Args:
            images: normalized images, padded at the bottom and on the right.
            sizes: rows and columns of each image, without padding.
            targets: for each image ``boxes`` [m, 4] (left, top, right, bottom, in pixels),
                ``labels`` int64 [m] from 1 on and ``masks`` uint8 [m, rows, columns]; only in
                training.

        Returns:
            losses by name, or for each image ``boxes`` [n, 4], ``scores`` [n], ``labels`` [n] and
            ``masks`` [n, 1, s, s] (probabilities over the box).
        """
        assert self.training == (targets is not None), "targets are given in training only"
        # Anchors and pooled features need float32; convolutions cast by themselves under autocast.
        maps = {name: value.float() for name, value in self.fpn(self.backbone(images)).items()}
        image_list = ImageList(images, list(sizes))
        proposals, rpn_losses = self.rpn(image_list, maps, targets)
        if targets is None:
            return self.roi_heads.detect(maps, proposals, sizes)
        losses = {f"rpn_{name}": loss for name, loss in rpn_losses.items()}
        return losses | self.roi_heads.losses(maps, proposals, sizes, targets)
