"""Swin Transformer for images and videos, dense or with semantic tokens.

An image is a video of one frame: Video Swin has a window of (8, 7, 7), Swin one of (1, 7, 7).

Letters: B batch, T frames, H rows, W columns of a grid, C channels.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .depths import depths_by_name
from .layers.attention import WindowAttention
from .layers.block import Block
from .layers.patch import ChannelDoubling, PatchMerging
from .layers.windows import Size, WindowSize
from .semantic.stage import SemanticSpec, base_blocks, layout_blocks, semantic_blocks
from .semantic.stgm import SemanticTokenLayer


class Swin(nn.Module):
    """A backbone of four stages and a classifier, put together from its parts.

    Args:
        patch_embed: maps a video to the first grid.
        stages: each maps a grid to the next stage's grid.
        norm: norm of the final grid.
        head: maps the final grid to logits.
    """

    def __init__(
        self,
        *,
        patch_embed: nn.Module,
        stages: Sequence[nn.Module],
        norm: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        self.head = head

    def parameter_depths(self) -> dict[str, int]:
        """Give the depth of each parameter; see :func:`~.depths.depths_by_name`."""
        return depths_by_name(name for name, _ in self.named_parameters())

    def forward_features(self, x: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` or an image ``[B, 3, H, W]`` to the final grid.

        Returns:
            ``[B, t, h, w, C]``, normed; any input size works.
        """
        if x.ndim == 4:
            x = x.unsqueeze(2)
        return self.norm(self.stages(self.patch_embed(x)))

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
    semantic: SemanticSpec | None = None,
    sequence: type[nn.Sequential] = nn.Sequential,
) -> list[nn.Module]:
    """Build the stages of a Swin, dense or with semantic tokens.

    Args:
        dim: channels of the first stage; each later stage has twice as many.
        depths: layers of each stage.
        num_heads: attention heads of each stage.
        window: frames, rows and columns of an attention window.
        mlp_ratio: hidden channels of the MLPs as a multiple of theirs.
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
        semantic: where and how semantic tokens replace image tokens; None for a dense Swin.
        sequence: what runs the blocks of a stage one after the other.
    """
    rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
    stages: list[nn.Module] = []
    for index, depth in enumerate(depths):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        blocks = _stage_blocks(
            index=index,
            dim=dim << index,
            num_heads=num_heads[index],
            window=window,
            mlp_ratio=mlp_ratio,
            drop_paths=rates[sum(depths[:index]) :][:depth],
            semantic=semantic,
        )
        parts["blocks"] = sequence(blocks)
        if index + 1 < len(depths):
            stays = semantic is not None and index >= semantic.stage
            parts["downsample"] = (ChannelDoubling if stays else PatchMerging)(dim << index)
        stages.append(nn.Sequential(parts))
    return stages


def _stage_blocks(
    *,
    index: int,
    dim: int,
    num_heads: int,
    window: Size,
    mlp_ratio: float,
    drop_paths: Sequence[float],
    semantic: SemanticSpec | None,
) -> "OrderedDict[str, nn.Module]":
    block = partial(_swin_block, dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio)
    if semantic is None or index < semantic.stage:
        return base_blocks(block, window=window, drop_paths=drop_paths)
    # Position says little about a cluster centre, and padding is not one: supplement, Table 7.
    semantic_block = partial(
        block, position_bias=False, mask_padding=True, layer_scale=semantic.layer_scale
    )
    if index > semantic.stage:
        return semantic_blocks(semantic_block, spec=semantic, drop_paths=drop_paths)

    def token_layer(key_window: int, drop_path: float) -> SemanticTokenLayer:
        return SemanticTokenLayer(
            dim,
            num_heads=num_heads,
            windows=semantic.windows,
            key_window=key_window,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            layer_scale=semantic.layer_scale,
        )

    return layout_blocks(
        semantic,
        dim=dim,
        window=window,
        base_factory=block,
        semantic_factory=semantic_block,
        layer_factory=token_layer,
        drop_paths=drop_paths,
    )


def _swin_block(
    window: WindowSize,
    shift: Size,
    drop_path: float,
    *,
    dim: int,
    num_heads: int,
    mlp_ratio: float,
    position_bias: bool = True,
    mask_padding: bool = False,
    layer_scale: float = 0.0,
) -> Block:
    attention = WindowAttention(
        dim,
        num_heads=num_heads,
        window=window,
        shift=shift,
        position_bias=position_bias,
        mask_padding=mask_padding,
    )
    return Block(
        dim,
        attention=attention,
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
        layer_scale=layer_scale,
    )
