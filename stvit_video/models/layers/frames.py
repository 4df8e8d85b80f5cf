"""The only place where frames are folded into the batch."""

from torch import Tensor, nn


class PerFrame(nn.Module):
    """Apply a module for images to each frame of a video by itself.

    In training stochastic depth then drops branches of single frames, not of whole clips.

    Args:
        module: maps ``[N, H, W, C]``, or several such grids, to ``[N, h, w, c]``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *grids: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]``, or several of equal B and T, to ``[B, T, h, w, c]``."""
        frames = [grid.flatten(0, 1) for grid in grids]
        return self.module(*frames).unflatten(0, grids[0].shape[:2])
