"""The only place where frames are folded into the batch."""

from torch import Tensor, nn


class PerFrame(nn.Module):
    """Apply a module for images to each frame of a video by itself.

    Args:
        module: maps ``[N, H, W, C]`` to ``[N, h, w, c]``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]`` to ``[B, T, h, w, c]``."""
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
