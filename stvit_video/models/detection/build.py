"""Build a Cascade Mask R-CNN from a config and a backbone."""

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
    NaiveSyncBatchNorm,
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
# Box regression weights of the first stage: the inverse of the standard deviations of the offsets,
# 0.1, 0.1, 0.2, 0.2. Stage n uses n times these.
_BOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def build_cascade(
    cfg: CfgNode, body: nn.Module, *, channels: Sequence[int], strides: Sequence[int]
) -> CascadeMaskRCNN:
    """Build a Cascade Mask R-CNN.

    Args:
        cfg: the config.
        body: see :class:`PyramidBackbone`.
        channels: channels of each stage of the body.
        strides: stride of each stage's feature map, in pixels.
    """
    detection = cfg.DETECTION
    stages = [_roi_heads(cfg, number, strides) for number in range(len(detection.IOU_THRESHOLDS))]
    return CascadeMaskRCNN(
        backbone=PyramidBackbone(body, channels=channels),
        fpn=FeaturePyramidNetwork(
            list(channels),
            detection.FPN_CHANNELS,
            # This smallest map is used for proposals only.
            extra_blocks=LastLevelMaxPool(),
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
    # The same number before NMS, for each feature map, and after it, in total.
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


def _roi_heads(cfg: CfgNode, number: int, strides: Sequence[int]) -> RoIHeads:
    detection = cfg.DETECTION
    width = detection.FPN_CHANNELS
    # The background is a class of the heads.
    classes = cfg.MODEL.NUM_CLASSES + 1
    threshold = detection.IOU_THRESHOLDS[number]
    weights = tuple((number + 1) * weight for weight in _BOX_REG_WEIGHTS)
    return RoIHeads(
        box_roi_pool=PyramidRoIAlign(strides, side=_BOX_SIDE),
        box_head=FastRCNNConvFCHead(
            (width, _BOX_SIDE, _BOX_SIDE),
            [width] * detection.BOX_CONVS,
            [detection.BOX_FC_DIM],
            norm_layer=NaiveSyncBatchNorm,
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
