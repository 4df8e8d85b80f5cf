"""The transformer block that every backbone is made of.

Letters: C channels; ``...`` are the axes of a grid, which a block never looks at.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from stvit_video.models.layers.attention import WindowAttention
from stvit_video.models.layers.windows import Size, WindowSize


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on ``[..., C]``.

    Args:
        dim: channels C.
        ratio: hidden channels as a multiple of C.
    """

    def __init__(self, dim: int, *, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., C]`` to ``[..., C]``."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (CaiT, section 2).

    Args:
        dim: channels C.
        init: initial value of the factors.
    """

    def __init__(self, dim: int, *, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[..., C]``."""
        return x * self.gamma


class Residual(nn.Module):
    """What a residual branch passes on its way back: layer scale, then stochastic depth.

    Args:
        dim: channels C.
        drop_path: probability that a sample skips the branch in training.
        layer_scale: initial layer scale; 0 for none.
    """

    def __init__(self, dim: int, *, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.scale = LayerScale(dim, init=layer_scale) if layer_scale else nn.Identity()
        self.drop = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()

    def forward(self, branch: Tensor) -> Tensor:
        """Scale and drop ``[B, ..., C]``."""
        return self.drop(self.scale(branch))


def drop_path_rates(last: float, *, depth: int) -> list[float]:
    """Give the stochastic depth rate of each of ``depth`` layers, from 0 linearly to ``last``."""
    return [last * layer / max(depth - 1, 1) for layer in range(depth)]


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


class TransformerLayer(nn.Module):
    """The parts of a pre-norm transformer layer, whatever attends to what in it.

    Args:
        spec: what the layers of its stage have in common.
        attention: used by :meth:`forward` of the layer.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        attention: nn.Module,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
    ) -> None:
        super().__init__()
        dim = spec.dim
        self.norm1 = spec.norm_layer(dim)
        self.attn = attention
        self.residual1 = Residual(dim, drop_path=drop_path, layer_scale=layer_scale)
        self.norm2 = spec.norm_layer(dim)
        self.mlp = Mlp(dim, ratio=spec.mlp_ratio)
        self.residual2 = Residual(dim, drop_path=drop_path, layer_scale=layer_scale)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the second branch, the MLP, to ``[B, ..., C]``: FFN(x) + x of the paper."""
        return x + self.residual2(self.mlp(self.norm2(x)))


class Block(TransformerLayer):
    """A transformer layer around any attention that keeps the shape of its grid."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid ``[B, ..., C]`` to a grid of the same shape."""
        return self.feed_forward(x + self.residual1(self.attn(self.norm1(x))))


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
    """Build a block with attention inside windows: that of Swin, DeiT and semantic tokens.

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


class CheckpointedSequential(nn.Sequential):
    """A sequence that keeps nothing but the input of each of its modules for the backward pass.

    The backward pass runs each module a second time, with the random numbers of the first, so
    gradients are those of a plain sequence. So are the names of the parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` by all modules in turn."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        for module in self:
            x = checkpoint(module, x, use_reentrant=False)
        return x
