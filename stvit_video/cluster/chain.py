"""Runs that follow each other: each starts from the last checkpoint of the one before it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.cluster.job_config import with_settings
from stvit_video.engine.checkpoint import checkpoint_path
from stvit_video.errors import UserError


def chain_configs(configs: Sequence[CfgNode]) -> list[CfgNode]:
    """Let every config but the first start from what the one before it will have trained.

    The weights alone are taken: it is another run, with a schedule of its own. A config that only
    tests, tests them.

    Raises:
        UserError: one that others build on does not train, or two write to the same folder.
    """
    chained = [configs[0]]
    for before, cfg in pairwise(configs):
        if not before.TRAIN.ENABLE:
            raise UserError(
                "every config of --chain but the last must train (TRAIN.ENABLE True), as the next "
                f"one starts from its checkpoint; that of {before.OUTPUT_DIR} does not"
            )
        chained.append(starting_from(cfg, last_checkpoint(before)))
    folders = [cfg.OUTPUT_DIR for cfg in configs if cfg.TRAIN.ENABLE]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(
                f"every config of --chain needs an OUTPUT_DIR of its own, but {folder} belongs to "
                "several; set them in the files, or with OUTPUT_DIR behind each file"
            )
    return chained


def last_checkpoint(cfg: CfgNode) -> Path:
    """Return where the run of a config will write its last checkpoint."""
    return checkpoint_path(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_EPOCH)


def starting_from(cfg: CfgNode, path: Path) -> CfgNode:
    """Copy a config that trains, or else tests, with the weights of a checkpoint."""
    if not cfg.TRAIN.ENABLE:
        return with_settings(cfg, TEST__CHECKPOINT_FILE_PATH=str(path))
    return with_settings(
        cfg, TRAIN__CHECKPOINT_FILE_PATH=str(path), TRAIN__CHECKPOINT_EPOCH_RESET=True
    )
