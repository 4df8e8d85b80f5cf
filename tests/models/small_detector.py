"""Build a Cascade Mask R-CNN with few channels, and images with objects."""

from pathlib import Path

import torch

from stvit_video.config import load_config
from stvit_video.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "coco"
SMALL = (
    *("SWIN.EMBED_DIM", "12", "SWIN.DEPTHS", "(1, 1, 2, 1)", "SWIN.NUM_HEADS", "(1, 2, 3, 3)"),
    *("MODEL.NUM_CLASSES", "4", "MODEL.DROPCONNECT_RATE", "0.0", "DETECTION.FPN_CHANNELS", "8"),
    *("DETECTION.BOX_FC_DIM", "16", "DETECTION.BOXES_PER_IMAGE", "32"),
    *("DETECTION.ANCHOR_SIZES", "(8, 16, 32, 64, 128)", "DETECTION.NUM_PROPOSALS", "(50, 50)"),
)


def detector(name, *overrides):
    """Build the model of ``configs/coco/cascade_mask_rcnn_{name}.yaml``."""
    return build_model(load_config(CONFIGS / f"cascade_mask_rcnn_{name}.yaml", overrides))


def small_detector(*overrides, seed=0):
    torch.manual_seed(seed)
    return detector("swin_s", *SMALL, *overrides)


def batch(*, objects=(3, 2), sizes=((96, 128), (80, 100)), seed=0):
    """Return padded images [2, 3, 96, 128], their sizes and their targets."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(len(sizes), 3, 96, 128)
    targets = []
    for image, (height, width), count in zip(images, sizes, objects, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.5
        sides = 12 + torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.3
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        boxes = torch.cat([corners, corners + sides], dim=1)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left : (left + right) // 2] = 1
        labels = torch.randint(1, 5, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, list(sizes), targets
