"""A classifier's stages as the backbone of a detector."""

from collections.abc import Sequence

from torch import Tensor, nn


class PyramidBackbone(nn.Module):
    """Feature maps of every stage of a backbone, each behind a norm of its own.

    Args:
        body: has ``forward_pyramid``, from images ``[B, 3, H, W]`` to a grid ``[B, 1, h, w, C]``
            for each stage; its classifier and final norm must be gone, as nothing trains them.
        channels: C of each stage.
    """

    def __init__(self, body: nn.Module, *, channels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images ``[B, 3, H, W]`` to maps ``[B, C, h, w]``, "0" the largest."""
        grids = self.body.forward_pyramid(images)  # type: ignore[operator]
        return {
            str(stage): norm(grid.squeeze(1)).permute(0, 3, 1, 2)
            for stage, (norm, grid) in enumerate(zip(self.norms, grids, strict=True))
        }
