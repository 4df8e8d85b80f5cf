"""A run of a config on one rank: training, then the test of what was trained."""

from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.config import dump_config
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.train import train
from stvit_video.errors import TransientError
from stvit_video.runtime import distributed


def write_config(cfg: CfgNode) -> None:
    """Write the merged config to OUTPUT_DIR; one process of a run calls this at each start.

    Raises:
        TransientError: OUTPUT_DIR cannot be written.
    """
    try:
        dump_config(cfg, Path(cfg.OUTPUT_DIR) / "config.yaml")
    except OSError as error:
        raise TransientError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written ({error.strerror or error}); set it to "
            "a folder that can."
        ) from error


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
        evaluate(cfg)
