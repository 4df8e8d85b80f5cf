"""Normalize uint8 input on the device, and run models in mixed precision."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from stvit_video.errors import UserError


class Normalize:
    """Move uint8 videos or images to the device, and normalize them there, where it is cheap.

    Args:
        device: device of the result.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel, of pixels in [0, 1].
    """

    def __init__(
        self, device: torch.device, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.device = device
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)

    def __call__(self, video: Tensor) -> Tensor:
        """Return ``(video / 255 - mean) / std`` as float32 on the device.

        Args:
            video: uint8 [B, 3, T, H, W], or images [B, 3, H, W], in any memory layout.
        """
        assert video.dtype == torch.uint8, video.dtype
        # Convert to float after the copy, which then moves a quarter of the bytes.
        video = video.to(self.device, non_blocking=True)
        # Decoded samples have their channels last in memory; models always get contiguous input.
        video = video.to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = (each.view(-1, *(1,) * (video.ndim - 2)) for each in (self.mean, self.std))
        return video.div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Precision:
    """Precision of forward passes: float32, or mixed precision with ``dtype``."""

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager:
        """Return the autocast context for forward passes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler, which is enabled for float16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def build_normalize(cfg: CfgNode, device: torch.device) -> Normalize:
    """Build the normalization of training, validation and testing."""
    return Normalize(device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)


def build_precision(cfg: CfgNode, device: torch.device) -> Precision:
    """Build the precision of the ``TRAIN.MIXED_PRECISION`` keys, for training and evaluation.

    Raises:
        UserError: bfloat16 is set, and the GPU only emulates it.
    """
    dtype = getattr(torch, cfg.TRAIN.MIXED_PRECISION_DTYPE)
    if not cfg.TRAIN.MIXED_PRECISION:
        return Precision(device)
    if (
        device.type == "cuda"
        and dtype is torch.bfloat16
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16 and would emulate it slowly; "
            "set TRAIN.MIXED_PRECISION_DTYPE to float16."
        )
    return Precision(device, dtype)
