"""Learned absolute positions, and the class token that has one too.

Letters: B batch, T frames, H rows, W columns of a grid, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionEmbedding(nn.Module):
    """Adds a learned position to each token of a frame (ViT, section 3.1).

    At another size than its own the table is resized: bicubic, with antialiasing, as timm does.

    Args:
        size: rows and columns of the table.
        dim: channels C.
        class_token: put a learned token, with a position of its own, before those of each frame.
    """

    def __init__(self, size: tuple[int, int], *, dim: int, class_token: bool = False) -> None:
        super().__init__()
        self.size = size
        rows, columns = size
        self.table = nn.Parameter(torch.empty(1, int(class_token) + rows * columns, dim))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.class_token: Tensor | None
        self.register_parameter("class_token", None)
        if class_token:
            self.class_token = nn.Parameter(torch.empty(1, 1, dim))
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid ``[B, T, H, W, C]`` to itself, or, with a class token, to a line.

        Returns:
            ``[B, T, H, W, C]``, or ``[B, T, 1, 1 + H W, C]`` with the class token first.
        """
        height, width = x.shape[2:4]
        places = self.size[0] * self.size[1]
        first, grid = self.table[:, :-places], self.table[:, -places:]
        grid = resize_positions(grid, self.size, (height, width)).view(height, width, -1)
        x = x + grid
        if self.class_token is None:
            return x
        line = x.flatten(2, 3).unsqueeze(2)
        token = (self.class_token + first).expand(*line.shape[:2], 1, 1, -1)
        return torch.cat([token, line], dim=3)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize positions ``[1, rows columns, C]`` of a grid to those of another grid."""
    if old == new:
        return table
    grid = table.unflatten(1, old).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), size=new, mode="bicubic", antialias=True)
    return resized.to(table.dtype).flatten(2).transpose(1, 2)
