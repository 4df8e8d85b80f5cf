"""Learned absolute position embeddings, and the class token.

Notation: B batch, T frames, H rows, W columns of a grid, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PositionEmbedding(nn.Module):
    """Add a learned position to each token of a frame (ViT, section 3.1).

    For a grid of another size the table is resized (bicubic, with antialiasing, as in timm).

    Args:
        size: rows and columns of the table.
        dim: channels C.
        class_token: prepend a learned token, with its own position, to those of each frame.
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
        """Map ``[B, T, H, W, C]`` to ``[B, T, H, W, C]``.

        With a class token, return ``[B, T, 1, 1 + H W, C]`` with the class token first.
        """
        height, width = x.shape[2:4]
        count = self.size[0] * self.size[1]
        class_position, positions = self.table[:, :-count], self.table[:, -count:]
        positions = resize_positions(positions, self.size, (height, width))
        x = x + positions.view(height, width, -1)
        if self.class_token is None:
            return x
        tokens = x.flatten(2, 3).unsqueeze(2)
        class_token = (self.class_token + class_position).expand(*tokens.shape[:2], 1, 1, -1)
        return torch.cat([class_token, tokens], dim=3)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize the positions ``[1, rows columns, C]`` of one grid size to another."""
    if old == new:
        return table
    grid = table.unflatten(1, old).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), size=new, mode="bicubic", antialias=True)
    return resized.to(table.dtype).flatten(2).transpose(1, 2)
