"""Which weights a test is of."""

from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.engine.checkpoint import newest_checkpoint, verify
from stvit_video.engine.keep import best_checkpoint
from stvit_video.errors import UserError
from stvit_video.models import LoadReport, load_weights

# TEST.CHECKPOINT_FILE_PATH of the checkpoint of the lowest validation error.
BEST = "best"


def load_tested_weights(cfg: CfgNode, model: nn.Module, path: Path) -> LoadReport:
    """Fill ``model`` with the weights of a checkpoint, or (EMA.EVAL) with their average.

    Raises:
        UserError: the file cannot be read, does not fit, or holds no average.
    """
    averaged = cfg.EMA.ENABLE and cfg.EMA.EVAL
    if averaged:
        # As the validation measures it, whatever MODEL.PARAM_DTYPE is.
        model.float()
    return load_weights(model, path, min_share=1.0, averaged=averaged)


def checkpoint_to_test(cfg: CfgNode) -> Path:
    """Return the file of TEST.CHECKPOINT_FILE_PATH, else the newest checkpoint in OUTPUT_DIR.

    "best" is the checkpoint in OUTPUT_DIR of the lowest validation error.

    Raises:
        UserError: there is neither, or the file is damaged: a test of random weights is never
            what was meant.
    """
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        path = Path(cfg.TEST.CHECKPOINT_FILE_PATH)
        if cfg.TEST.CHECKPOINT_FILE_PATH == BEST:
            path = best_checkpoint(cfg.OUTPUT_DIR)
        verify(path)
        return path
    newest = newest_checkpoint(cfg.OUTPUT_DIR)
    if newest is None:
        raise UserError(
            f"There are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR} holds no checkpoint; set the former, or train first "
            "(TRAIN.ENABLE True)."
        )
    return newest
