"""Operations that overwrite what they are given, unless a backward pass may need it.

On a CPU a pass is bound by memory as much as by arithmetic, and each large result costs fresh
pages of the kernel's. As the in-place activations and additions of torchvision's networks, they
overwrite the output of a layer, which a forward hook that keeps it must copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """Apply GELU to any ``x``, which nothing else needs."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def hardswish(x: Tensor) -> Tensor:
    """Apply Hardswish to any ``x``, which nothing else needs."""
    return F.hardswish(x, inplace=not torch.is_grad_enabled())


def add_branch(x: Tensor, branch: Tensor) -> Tensor:
    """Add a residual branch, which nothing else needs, to the ``x`` it comes from.

    Args:
        x: any shape.
        branch: the same shape; mixed precision may have made it of another type.
    """
    if torch.is_grad_enabled() or branch.dtype != x.dtype or not branch.is_contiguous():
        return x + branch
    return branch.add_(x)
