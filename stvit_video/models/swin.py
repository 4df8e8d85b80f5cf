"""Swin Transformer for images and videos, dense or with semantic tokens.

An image is a video of one frame: Video Swin has a window of (8, 7, 7), Swin one of (1, 7, 7).

Notation: B batch, T frames, H rows, W columns of a video, t h w grid of tokens, C channels,
K classes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from stvit_video.errors import UserError
from stvit_video.models.depths import layer_depths
from stvit_video.models.layers.block import BlockSpec, drop_path_rates, window_block
from stvit_video.models.layers.patch import ChannelDoubling, PatchMerging
from stvit_video.models.layers.windows import Size
from stvit_video.models.semantic.stage import (
    SemanticSpec,
    base_blocks,
    semantic_blocks,
    semantic_stage,
)


class Swin(nn.Module):
    """Hierarchical backbone with a classification head.

    Args:
        patch_embed: maps a video to the first grid.
        stages: each maps its grid to the grid of the next stage.
        norm: norm of the final grid.
        head: maps the final grid to logits.
        is_pyramid: whether each stage ends in image tokens.
    """

    def __init__(
        self,
        *,
        patch_embed: nn.Module,
        stages: Sequence[nn.Module],
        norm: nn.Module,
        head: nn.Module,
        is_pyramid: bool = True,
    ) -> None:
        super().__init__()
        self.is_pyramid = is_pyramid
        self.patch_embed = patch_embed
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        self.head = head

    def parameter_depths(self) -> dict[str, int]:
        """Return the depth of each parameter; see :func:`~.depths.layer_depths`."""
        return layer_depths(name for name, _ in self.named_parameters())

    def forward_features(self, x: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` or an image ``[B, 3, H, W]`` to the final grid.

        Returns:
            the normalized grid ``[B, t, h, w, C]``. Any input size works.
        """
        if x.ndim == 4:
            x = x.unsqueeze(2)
        return self.norm(self.stages(self.patch_embed(x)))

    def forward_pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map a video ``[B, 3, T, H, W]`` or an image ``[B, 3, H, W]`` to each stage's grid.

        Returns:
            the grid ``[B, t, h, w, C]`` after the last block of each stage, before downsampling
            and without a norm. Their strides are 4, 8, 16 and 32. Any input size works; sides are
            rounded up.

        Raises:
            UserError: a stage ends in semantic tokens.
        """
        if not self.is_pyramid:
            raise UserError(
                "A pyramid needs image tokens at the end of every stage, but STVIT.LAYOUT leaves "
                "semantic tokens: end it with recovery, as in configs/imagenet/stvit_r_swin_s.yaml."
            )
        if x.ndim == 4:
            x = x.unsqueeze(2)
        x = self.patch_embed(x)
        grids = []
        for stage in self.stages:
            for name, part in stage.named_children():
                x = part(x)
                if name == "blocks":
                    grids.append(x)
        return tuple(grids)

    def forward(self, x: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` or an image ``[B, 3, H, W]`` to logits ``[B, K]``."""
        return self.head(self.forward_features(x))


def swin_stages(
    *,
    dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window: Size,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    cut_windows: bool = True,
    semantic: SemanticSpec | None = None,
    sequence: type[nn.Sequential] = nn.Sequential,
) -> list[nn.Module]:
    """Build the stages of a Swin, dense or with semantic tokens.

    Args:
        dim: channels of the first stage; each later stage has twice as many.
        depths: layers of each stage.
        num_heads: attention heads of each stage.
        window: frames, rows and columns of an attention window.
        mlp_ratio: hidden channels of the MLPs as a multiple of the stage's channels.
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
        cut_windows: reduce windows to the size of a smaller grid, instead of padding the grid.
        semantic: settings of the semantic tokens; None for a dense Swin.
        sequence: class of the container of a stage's blocks.
    """
    rates = drop_path_rates(drop_path, depth=sum(depths))
    stages: list[nn.Module] = []
    for index, depth in enumerate(depths):
        width = dim << index
        spec = BlockSpec(width, num_heads[index], mlp_ratio, cut_windows=cut_windows)
        drop_paths = rates[sum(depths[:index]) :][:depth]
        ends_semantic = semantic is not None and semantic.ends_semantic(index)
        if semantic is not None and index == semantic.stage:
            blocks = semantic_stage(
                semantic, spec=spec, window=window, drop_paths=drop_paths, sequence=sequence
            )
        elif semantic is not None and ends_semantic:
            blocks = sequence(semantic_blocks(semantic, spec=spec, drop_paths=drop_paths))
        else:
            block = partial(window_block, spec=spec)
            blocks = sequence(base_blocks(block, window=window, drop_paths=drop_paths))
        parts: OrderedDict[str, nn.Module] = OrderedDict(blocks=blocks)
        if index + 1 < len(depths):
            parts["downsample"] = (ChannelDoubling if ends_semantic else PatchMerging)(width)
        stages.append(nn.Sequential(parts))
    return stages
