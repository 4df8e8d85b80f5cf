"""The transformer block with attention inside windows: that of Swin, DeiT and semantic tokens."""

from .attention import WindowAttention
from .block import Block, BlockSpec
from .windows import Size, WindowSize


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
    return Block(spec, attention=attention, drop_path=drop_path, layer_scale=layer_scale)
