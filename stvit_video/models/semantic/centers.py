"""Cluster centres that are learned, and the initialisations made of them (paper, Table 7).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; n n semantic
tokens of one or more windows.
"""

import torch
from torch import Tensor, nn

from .pooling import SpatialPooling
from .regions import Windows


def learned_centers(windows: Windows, dim: int, *, count: int = 1) -> nn.Parameter:
    """Give new centres ``[n, n, C]``, of ``count`` windows along each axis; then they repeat."""
    side = count * windows.tokens
    centers = nn.Parameter(torch.empty(side, side, dim))
    nn.init.normal_(centers, std=0.02)
    return centers


def tile_centers(centers: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Repeat the centres of windows ``[n, n, C]`` over a grid of semantic tokens ``[h, w, C]``."""
    height, width = size
    repeats = (-(-height // centers.shape[0]), -(-width // centers.shape[1]), 1)
    return centers.repeat(repeats)[:height, :width]


class LearnedCenters(SpatialPooling):
    """Initial centres that are the same for every image: nothing is pooled.

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
        dim: channels C.
    """

    def __init__(self, windows: Windows, *, dim: int) -> None:
        super().__init__(windows)
        self.centers = learned_centers(windows, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]``, of which only the size matters, to ``[N, h, w, C]``."""
        height, width = (len(self.windows.regions(size)) for size in x.shape[1:3])
        return tile_centers(self.centers, (height, width)).expand(len(x), -1, -1, -1)


class PositionedPooling(SpatialPooling):
    """Pooled centres, to each of which the learned position in its window is added.

    Args:
        pooling: gives the centres.
        dim: channels C.
    """

    def __init__(self, pooling: SpatialPooling, *, dim: int) -> None:
        super().__init__(pooling.windows)
        self.pooling = pooling
        self.position = learned_centers(pooling.windows, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        centers = self.pooling(x)
        return centers + tile_centers(self.position, centers.shape[1:3])
