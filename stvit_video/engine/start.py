"""Where a run starts from: its own last checkpoint, another full one, or somebody's weights."""

from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.engine.checkpoint import (
    is_full_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    verify,
)
from stvit_video.engine.state import TrainingState
from stvit_video.errors import UserError
from stvit_video.models import LoadReport, load_weights
from stvit_video.runtime.logging import get_logger

# Of a run with checkpoints of its own.
WEIGHTS_NOT_READ = (
    "TRAIN.CHECKPOINT_FILE_PATH is not read, as the run goes on from its own checkpoint in "
    "OUTPUT_DIR"
)

_log = get_logger(__name__)


def start_from_files(cfg: CfgNode, state: TrainingState) -> None:
    """Fill a new training state from the files that the config names, if any.

    In PySlowFast's order: the newest good checkpoint in OUTPUT_DIR (TRAIN.AUTO_RESUME), else
    TRAIN.CHECKPOINT_FILE_PATH. From the latter a full checkpoint of ours goes on at its epoch,
    unless TRAIN.CHECKPOINT_EPOCH_RESET; every other file gives weights alone.

    Raises:
        UserError: a file is missing, damaged or does not fit, or see :func:`run_to_resume`.
    """
    newest = run_to_resume(cfg)
    if newest is not None:
        if cfg.TRAIN.CHECKPOINT_FILE_PATH:
            _log.info("%s", WEIGHTS_NOT_READ)
        state.restore(read_checkpoint(newest), newest)
        return
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
        if goes_on_from(cfg):
            state.restore(read_checkpoint(path), path)
            # The other run's checkpoints are not here, so none of them is the best of this one.
            state.validations = {}
            check_epochs_left(cfg, path, finished_epochs=state.finished_epochs)
        else:
            _log.info("%s", load_initial_weights(cfg, state.model))
            if state.average is not None:
                state.average.restart()


def run_to_resume(cfg: CfgNode) -> Path | None:
    """Return the checkpoint in OUTPUT_DIR that training goes on from, or None for a new run.

    Raises:
        UserError: there are checkpoints and TRAIN.AUTO_RESUME is off, or all are damaged. A new
            run would mix its own with them, and a test would take the wrong ones.
    """
    newest = newest_checkpoint(cfg.OUTPUT_DIR)
    if newest is not None and not cfg.TRAIN.AUTO_RESUME:
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds checkpoints (the newest is {newest.name}), "
            "which a new run must not mix with its own; set another OUTPUT_DIR, move them away, "
            "or set TRAIN.AUTO_RESUME True to go on from them."
        )
    return newest


def goes_on_from(cfg: CfgNode) -> bool:
    """Return whether TRAIN.CHECKPOINT_FILE_PATH gives its epoch and optimizer besides weights."""
    path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    return not cfg.TRAIN.CHECKPOINT_EPOCH_RESET and is_full_checkpoint(path)


def load_initial_weights(cfg: CfgNode, model: nn.Module) -> LoadReport:
    """Load the weights of TRAIN.CHECKPOINT_FILE_PATH, of whatever format, into ``model``.

    Raises:
        UserError: the file is missing, damaged, or fits less than TRAIN.CHECKPOINT_MIN_SHARE.
    """
    path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    verify(path)
    return load_weights(
        model,
        path,
        min_share=cfg.TRAIN.CHECKPOINT_MIN_SHARE,
        clear_name_patterns=cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN,
        averaged=cfg.TRAIN.CHECKPOINT_EMA,
    )


def check_epochs_left(cfg: CfgNode, path: Path, *, finished_epochs: int) -> None:
    """Check that there is something to train after another run's checkpoint.

    Raises:
        UserError: it has finished all epochs of the config.
    """
    if finished_epochs >= cfg.SOLVER.MAX_EPOCH:
        raise UserError(
            f"TRAIN.CHECKPOINT_FILE_PATH {path} has finished epoch {finished_epochs}, and "
            f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}: nothing is left to train; set "
            "TRAIN.CHECKPOINT_EPOCH_RESET True to take its weights alone, or raise MAX_EPOCH."
        )
