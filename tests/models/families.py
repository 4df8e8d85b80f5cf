"""Build one model of each family, at full depth but with few channels, and its input."""

import torch
from small import CONFIGS

from stvit_video.config import load_config
from stvit_video.models import build_model

_SWIN = ("SWIN.EMBED_DIM", "12", "SWIN.NUM_HEADS", "(1, 2, 4, 8)", "MODEL.NUM_CLASSES", "5")
_DEIT = ("DEIT.EMBED_DIM", "24", "DEIT.NUM_HEADS", "2", "MODEL.NUM_CLASSES", "5")
_DETECTOR = (
    *_SWIN,
    *("DETECTION.FPN_CHANNELS", "8", "DETECTION.BOX_FC_DIM", "8", "SWIN.DEPTHS", "(2, 2, 6, 2)"),
    *("STVIT.LAYOUT", "base 1, stgm 2, semantic 2, recovery 1"),  # one of the three units
)

# name: (config, overrides, input shape without the batch).
FAMILIES = {
    "DeiT": ("imagenet/deit_t", _DEIT, (3, 224, 224)),
    "STViT-DeiT": ("imagenet/stvit_deit_t", _DEIT, (3, 224, 224)),
    "STViT-DeiT, other size": ("imagenet/stvit_deit_t", _DEIT, (3, 240, 160)),
    "Swin": ("imagenet/swin_t", _SWIN, (3, 224, 224)),
    "Swin, padded": ("imagenet/swin_t", _SWIN, (3, 200, 250)),
    "STViT-Swin": ("imagenet/stvit_swin_t", _SWIN, (3, 224, 224)),
    "STViT-Swin, padded": ("imagenet/stvit_swin_t", _SWIN, (3, 200, 250)),
    "STViT-R-Swin": ("imagenet/stvit_r_swin_t", _SWIN, (3, 224, 224)),
    "Video Swin": ("k400/swin_t", _SWIN, (3, 32, 224, 224)),
    "Video Swin, padded": ("k400/swin_t", _SWIN, (3, 18, 100, 130)),
    "STViT Video Swin": ("k400/stvit_swin_t", _SWIN, (3, 32, 224, 224)),
    "STViT-R Video Swin": ("k400/stvit_r_swin_t", _SWIN, (3, 18, 250, 230)),
    "detector, Swin": ("coco/cascade_mask_rcnn_swin_s", _DETECTOR, (3, 320, 416)),
    "detector, STViT-R-Swin": (
        "coco/cascade_mask_rcnn_stvit_r_swin_s",
        _DETECTOR,
        (3, 320, 416),
    ),
}


def build_family(name, *overrides):
    """Build the model, or for a detector its backbone, which returns a dict of feature maps."""
    config, small, _ = FAMILIES[name]
    model = build_model(load_config(CONFIGS.parent / f"{config}.yaml", (*small, *overrides)))
    return model.backbone if name.startswith("detector") else model


def input_of(name, batch=2):
    return torch.randn(batch, *FAMILIES[name][2])


def outputs_of(result):
    """Return the outputs of a model as a list."""
    return list(result.values()) if isinstance(result, dict) else [result]
