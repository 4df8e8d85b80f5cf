"""Which of torch's kernels for attention may be used on a GPU."""

import torch


def avoid_planned_attention() -> None:
    """Keep attention on a GPU off cuDNN, which plans anew for every shape it meets.

    Newer GPUs prefer it, and a plan takes up to a second: much, where windows at the border,
    images of many sizes or clips of several lengths make many shapes. The kernels that remain
    need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
