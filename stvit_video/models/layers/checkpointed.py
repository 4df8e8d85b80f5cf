"""Activation checkpointing: memory for time, in one place for all blocks."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
