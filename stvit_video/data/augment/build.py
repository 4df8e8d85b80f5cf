"""From a config to augmentations."""

from collections.abc import Callable

from fvcore.common.config import CfgNode
from torch import Tensor

from stvit_video.data.augment.color_jitter import ColorJitter
from stvit_video.data.augment.erasing import RandomErasing
from stvit_video.data.augment.mixing import Mixing
from stvit_video.data.augment.policy import parse_policy


def build_augmentations(cfg: CfgNode) -> tuple[Callable[..., Tensor], ...]:
    """Build what the AUG keys add to the crop and flip of training clips, in order.

    Raises:
        UserError: AUG.AA_TYPE is no policy.
    """
    aug = cfg.AUG
    if not aug.ENABLE:
        return ()
    augmentations: list[Callable[..., Tensor]] = []
    if aug.AA_TYPE:
        augmentations.append(parse_policy(aug.AA_TYPE, interpolation=aug.INTERPOLATION))
    elif aug.COLOR_JITTER > 0:
        augmentations.append(ColorJitter(aug.COLOR_JITTER))
    if aug.RE_PROB > 0:
        erasing = RandomErasing(
            aug.RE_PROB,
            mode=aug.RE_MODE,
            max_count=aug.RE_COUNT,
            mean=cfg.DATA.MEAN,
            std=cfg.DATA.STD,
        )
        augmentations.append(erasing)
    return tuple(augmentations)


def build_mixing(cfg: CfgNode) -> Mixing | None:
    """Build what makes soft targets of labels; None where the loss takes the labels."""
    if cfg.MODEL.LOSS_FUNC != "soft_cross_entropy":
        return None
    return Mixing(
        cfg.MODEL.NUM_CLASSES,
        label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
        probability=cfg.MIXUP.PROB if cfg.MIXUP.ENABLE else 0.0,
        mixup_alpha=cfg.MIXUP.ALPHA,
        cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
        switch_probability=cfg.MIXUP.SWITCH_PROB,
    )
