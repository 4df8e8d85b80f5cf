"""DeiT, dense or with semantic tokens.

Notation: B batch, T frames, H rows, W columns of a video, h w grid of patches, C channels,
K classes.
"""

from functools import partial

from torch import Tensor, nn

from stvit_video.models.depths import layer_depths
from stvit_video.models.layers.block import BlockSpec, drop_path_rates, window_block
from stvit_video.models.layers.windows import WindowSize
from stvit_video.models.semantic.stage import SemanticSpec, base_blocks, semantic_stage

_FRAME: WindowSize = (1, None, None)


class Deit(nn.Module):
    """Vision transformer with a classification head.

    Args:
        patch_embed: maps a video to a grid of patches.
        position: adds positions to the grid, and optionally prepends a class token.
        blocks: transformer blocks, mapping a grid to a grid.
        norm: norm of the final grid.
        head: maps the final grid to logits.
    """

    def __init__(
        self,
        *,
        patch_embed: nn.Module,
        position: nn.Module,
        blocks: nn.Module,
        norm: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.position = position
        self.blocks = blocks
        self.norm = norm
        self.head = head

    def parameter_depths(self) -> dict[str, int]:
        """Return the depth of each parameter; see :func:`~.depths.layer_depths`."""
        return layer_depths(name for name, _ in self.named_parameters())

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that DeiT trains without weight decay."""
        return {"position.table", "position.class_token"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Map an image ``[B, 3, H, W]`` or a video ``[B, 3, T, H, W]`` to the final grid.

        Returns:
            the normalized grid ``[B, T, h, w, C]``; with a class token ``[B, T, 1, 1 + h w, C]``,
            the class token first.
        """
        if x.ndim == 4:
            x = x.unsqueeze(2)
        return self.norm(self.blocks(self.position(self.patch_embed(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map an image ``[B, 3, H, W]`` or a video ``[B, 3, T, H, W]`` to logits ``[B, K]``."""
        return self.head(self.forward_features(x))


def deit_blocks(
    spec: BlockSpec,
    *,
    depth: int,
    drop_path: float = 0.0,
    semantic: SemanticSpec | None = None,
    sequence: type[nn.Sequential] = nn.Sequential,
) -> nn.Sequential:
    """Build the blocks of a DeiT, dense or with semantic tokens.

    Args:
        spec: settings shared by the blocks.
        depth: number of layers.
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
        semantic: settings of the semantic tokens; None for a dense DeiT.
        sequence: class of the returned container.
    """
    rates = drop_path_rates(drop_path, depth=depth)
    if semantic is None:
        block = partial(window_block, spec=spec, position_bias=False)
        return sequence(base_blocks(block, window=_FRAME, drop_paths=rates))
    return semantic_stage(
        semantic,
        spec=spec,
        window=_FRAME,
        position_bias=False,
        drop_paths=rates,
        sequence=sequence,
    )
