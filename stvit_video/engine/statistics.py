"""Running statistics of batch norms, which every rank may have its own of."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stvit_video.runtime import distributed


def share_running_statistics(model: nn.Module) -> None:
    """Overwrite running statistics by rank 0's, which a checkpoint has; every rank must call this.

    Those of an ordinary batch norm are of a rank's own clips.
    """
    distributed.broadcast_tensors(
        statistic
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for statistic in module.buffers()
    )
