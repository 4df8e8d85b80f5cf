"""Batch norm over the boxes of all ranks, on GPUs and on the CPU."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all ranks together.

    torch's ``SyncBatchNorm`` does the same, but on GPUs alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``[N, C, H, W]``; the numbers N may differ between ranks."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        # As torch does, in float32 under autocast too.
        return self._normalise(input.float()).to(input.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, "a moving average is kept"
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        dims = (0, 2, 3)
        count = x.new_full((1,), x.numel() / x.shape[1])
        *sums, total = all_reduce(torch.cat([x.sum(dims), count])).split(x.shape[1])
        mean = sums[0] / total
        centered = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centered.square().sum(dims)) / total
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
