"""Batch norm over the boxes of all ranks, on GPUs and on the CPU."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's ``SyncBatchNorm``, which refuses tensors on the CPU, with a way for these."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; the numbers N may differ between ranks."""
        synchronises = self.training and dist.is_initialized()
        if input.is_cuda or not synchronises:
            return super().forward(input)
        return self._normalise(input)

    def _normalise(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, "a moving average is kept"
        assert self.num_batches_tracked is not None
        shape = (1, -1, *(1,) * (x.ndim - 2))
        dims = [0, *range(2, x.ndim)]
        count = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype)
        total = all_reduce(torch.cat([x.sum(dims), count]))
        mean = total[:-1] / total[-1]
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / total[-1]
        with torch.no_grad():
            unbiased = variance * total[-1] / (total[-1] - 1)
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale.view(shape) + self.bias.view(shape)
