"""A run of a config on one rank: training, then the test of what was trained."""

from fvcore.common.config import CfgNode

from stvit_video.engine.evaluate import test
from stvit_video.engine.train import train
from stvit_video.runtime import distributed


def train_and_test(cfg: CfgNode) -> None:
    """Train and test, whichever of the two the config enables; called inside ``run_ranks``.

    Both are work of one process group.

    Raises:
        UserError: as training and testing raise it.
    """
    if cfg.TRAIN.ENABLE:
        train(cfg)
        # Rank 0 writes what all of them test.
        distributed.barrier()
    if cfg.TEST.ENABLE:
        test(cfg)
