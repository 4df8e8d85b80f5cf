"""Pre-norm transformer blocks.

Notation: B batch, C channels; ``...`` are the axes of a grid, which a block does not depend on.
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
    """Feed-forward network (FFN) of two linear layers with a GELU in between.

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
    """Learned scale of each channel of a residual branch (CaiT, section 2).

    Args:
        dim: channels C.
        init: initial value of the scale.
    """

    def __init__(self, dim: int, *, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., C]`` to ``[..., C]``."""
        return x * self.gamma


class Residual(nn.Module):
    """Layer scale and stochastic depth at the end of a residual branch.

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
        """Map ``[B, ..., C]`` to ``[B, ..., C]``."""
        return self.drop(self.scale(branch))


@dataclass(frozen=True)
class BlockSpec:
    """Settings shared by all blocks of a stage, including those on semantic tokens.

    Attributes:
        dim: channels C.
        num_heads: attention heads.
        mlp_ratio: hidden channels of the MLP as a multiple of C.
        norm_layer: builds a norm of C channels.
        cut_windows: reduce windows to the size of a smaller grid, instead of padding the grid.
    """

    dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    norm_layer: Callable[[int], nn.Module] = nn.LayerNorm
    cut_windows: bool = True


class TransformerLayer(nn.Module):
    """Base class: the submodules of a pre-norm transformer layer.

    Args:
        spec: settings shared by the layers of the stage.
        attention: attention layer, applied by ``forward`` of a subclass.
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
        """Map ``[B, ..., C]`` to FFN(x) + x of the same shape."""
        return x + self.residual2(self.mlp(self.norm2(x)))


class Block(TransformerLayer):
    """A transformer layer around an attention that keeps the shape of its grid."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid ``[B, ..., C]`` to ``[B, ..., C]``."""
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
    """Build a block with window attention, for Swin, DeiT and semantic tokens.

    Args:
        window: frames, rows and columns of a window; None covers the whole axis.
        shift: roll of each axis.
        drop_path: stochastic depth rate of both branches.
        spec: settings shared by the blocks of the stage.
        position_bias: learn a bias for each relative position; the window must not contain None.
        mask_padding: mask the padding of the last windows.
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


def drop_path_rates(last: float, *, depth: int) -> list[float]:
    """Return the stochastic depth rates of ``depth`` layers, rising linearly from 0 to ``last``."""
    return [last * layer / max(depth - 1, 1) for layer in range(depth)]


class CheckpointedSequential(nn.Sequential):
    """``nn.Sequential`` with activation checkpointing of each module.

    The backward pass runs each module again with the same random numbers, so gradients equal those
    of ``nn.Sequential``. Parameter names are the same too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, ..., C]`` by all modules in turn."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        for module in self:
            x = checkpoint(module, x, use_reentrant=False)
        return x
