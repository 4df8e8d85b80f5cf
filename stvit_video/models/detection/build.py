"""From a config to a detector around a backbone."""

from collections.abc import Sequence
from typing import cast

from fvcore.common.config import CfgNode
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from stvit_video.models.detection.cascade import (
    BoxLoss,
    CascadeHeads,
    SyncBatchNorm,
    giou_loss,
    smooth_l1_loss,
)
from stvit_video.models.detection.detector import (
    CascadeMaskRCNN,
    FloatRPNHead,
    PyramidBackbone,
    PyramidRoIAlign,
)

BOX_LOSSES: dict[str, BoxLoss] = {"giou": giou_loss, "smooth_l1": smooth_l1_loss}

_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_BOX_SIDE, _MASK_SIDE = 7, 14
# Of the first stage: one over the standard deviations of the offsets, 0.1, 0.1, 0.2, 0.2.
_OFFSET_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def build_cascade(
    cfg: CfgNode, body: nn.Module, *, channels: Sequence[int], strides: Sequence[int]
) -> CascadeMaskRCNN:
    """Build a Cascade Mask R-CNN.

    Args:
        cfg: the config.
        body: see :class:`PyramidBackbone`.
        channels: of each stage of the body.
        strides: of each stage's map, in pixels.
    """
    detection = cfg.DETECTION
    # Regions are pooled from the stages' maps; the smallest map, after them, is for proposals.
    stages = [_stage(cfg, number, strides) for number in range(len(detection.IOU_THRESHOLDS))]
    return CascadeMaskRCNN(
        backbone=PyramidBackbone(body, channels=channels),
        fpn=FeaturePyramidNetwork(
            list(channels), detection.FPN_CHANNELS, extra_blocks=LastLevelMaxPool()
        ),
        rpn=_rpn(cfg),
        roi_heads=CascadeHeads(
            stages,
            weights=detection.STAGE_WEIGHTS,
            box_loss=BOX_LOSSES[detection.BOX_LOSS],
        ),
    )


def _rpn(cfg: CfgNode) -> RegionProposalNetwork:
    detection = cfg.DETECTION
    training, testing = detection.NUM_PROPOSALS
    # As many before the suppression, of each map, as after it in all.
    counts = {"training": training, "testing": testing}
    return RegionProposalNetwork(
        AnchorGenerator(
            tuple((side,) for side in detection.ANCHOR_SIZES),
            (_ASPECT_RATIOS,) * len(detection.ANCHOR_SIZES),
        ),
        FloatRPNHead(detection.FPN_CHANNELS, len(_ASPECT_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=counts,
        nms_thresh=0.7,
    )


def _stage(cfg: CfgNode, number: int, strides: Sequence[int]) -> RoIHeads:
    detection = cfg.DETECTION
    width = detection.FPN_CHANNELS
    # The background is a class to the heads.
    classes = cfg.MODEL.NUM_CLASSES + 1
    threshold = detection.IOU_THRESHOLDS[number]
    weights = tuple((number + 1) * weight for weight in _OFFSET_WEIGHTS)
    return RoIHeads(
        box_roi_pool=PyramidRoIAlign(strides, side=_BOX_SIDE),
        box_head=FastRCNNConvFCHead(
            (width, _BOX_SIDE, _BOX_SIDE),
            [width] * detection.BOX_CONVS,
            [detection.BOX_FC_DIM],
            norm_layer=SyncBatchNorm,
        ),
        box_predictor=FastRCNNPredictor(detection.BOX_FC_DIM, classes),
        fg_iou_thresh=threshold,
        bg_iou_thresh=threshold,
        batch_size_per_image=detection.BOXES_PER_IMAGE,
        positive_fraction=0.25,
        bbox_reg_weights=cast(tuple[float, float, float, float], weights),
        score_thresh=detection.SCORE_THRESH,
        nms_thresh=detection.NMS_THRESH,
        detections_per_img=detection.MAX_DETECTIONS,
        mask_roi_pool=PyramidRoIAlign(strides, side=_MASK_SIDE),
        mask_head=MaskRCNNHeads(width, [width] * detection.MASK_CONVS, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
    )
