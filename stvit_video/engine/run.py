"""Run a config on one rank: training, then testing."""

from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.config import dump_config
from stvit_video.engine.evaluate import evaluate
from stvit_video.engine.train import train
from stvit_video.errors import TransientError
from stvit_video.runtime import distributed


def write_config(cfg: CfgNode) -> None:
    """Write the merged config to OUTPUT_DIR; one process calls this each time a run starts.

    Raises:
        TransientError: OUTPUT_DIR is not writable.
    """
    try:
        dump_config(cfg, Path(cfg.OUTPUT_DIR) / "config.yaml")
    except OSError as error:
        raise TransientError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written ({error.strerror or error}); set it to "
            "a writable folder."
        ) from error


def train_and_test(cfg: CfgNode) -> None:
    """Train if TRAIN.ENABLE is set, then test if TEST.ENABLE is set, in one process group.

    Called inside ``run_ranks``.

    Raises:
        UserError: as :func:`train` and :func:`evaluate` raise it.
    """
    if cfg.TRAIN.ENABLE:
        train(cfg)
        # Rank 0 writes the checkpoint that all ranks test.
        distributed.barrier()
    if cfg.TEST.ENABLE:
        evaluate(cfg)
