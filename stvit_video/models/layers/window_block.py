"""The transformer block with attention inside windows: that of Swin, DeiT and semantic tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .attention import WindowAttention
from .block import Block
from .windows import Size, WindowSize


@dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a stage have in common, those on semantic tokens too.

    Attributes:
        dim: channels C.
        num_heads: attention heads.
        mlp_ratio: hidden channels of the MLP as a multiple of C.
        norm_layer: builds a norm of C channels.
        cut_windows: windows are cut to a smaller grid, which is else padded.
    """

    dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    norm_layer: Callable[[int], nn.Module] = nn.LayerNorm
    cut_windows: bool = True


def window_block(
    window: WindowSize,
    shift: Size,
    drop_path: float,
    *,
    spec: BlockSpec,
    position_bias: bool = True,
    mask_padding: bool = False,
    layer_scale: float = 0.0,
) -> Block:
    """Build a block on grids ``[B, T, H, W, C]``.

    Args:
        window: frames, rows and columns of a window; None covers the whole axis.
        shift: the roll of each axis.
        drop_path: stochastic depth rate of both branches.
        spec: what the blocks of its stage have in common.
        position_bias: learn a bias for each relative position; needs a window without None.
        mask_padding: tokens never attend to the padding of the last windows.
        layer_scale: initial layer scale of both branches; 0 for none.
    """
    attention = WindowAttention(
        spec.dim,
        num_heads=spec.num_heads,
        window=window,
        shift=shift,
        position_bias=position_bias,
        mask_padding=mask_padding,
        cut_windows=spec.cut_windows,
    )
    return Block(
        spec.dim,
        attention=attention,
        mlp_ratio=spec.mlp_ratio,
        drop_path=drop_path,
        layer_scale=layer_scale,
        norm_layer=spec.norm_layer,
    )
