"""Choose what a run starts from or tests: a checkpoint to resume, or weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_loader
from stvit_video.engine.build import build_meter
from stvit_video.engine.checkpoint import (
    check_epoch_plan,
    check_state,
    is_full_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    verify,
)
from stvit_video.engine.optim import build_optimizer
from stvit_video.engine.retention import best_checkpoint
from stvit_video.engine.state import TrainingState
from stvit_video.errors import UserError
from stvit_video.models import LoadReport, load_weights
from stvit_video.runtime.logging import get_logger

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


# Of a run with checkpoints of its own.
WEIGHTS_NOT_READ = (
    "TRAIN.CHECKPOINT_FILE_PATH is not read, as the run goes on from its own checkpoint in "
    "OUTPUT_DIR"
)

_log = get_logger(__name__)


def resume_or_load(cfg: CfgNode, state: TrainingState) -> None:
    """Fill a new training state from the files that the config names, if any.

    In PySlowFast's order: the newest good checkpoint in OUTPUT_DIR (TRAIN.AUTO_RESUME), else
    TRAIN.CHECKPOINT_FILE_PATH. From the latter a full checkpoint of ours goes on at its epoch,
    unless TRAIN.CHECKPOINT_EPOCH_RESET; every other file gives weights alone.

    Raises:
        UserError: a file is missing, damaged or does not fit, or see :func:`checkpoint_to_resume`.
    """
    newest = checkpoint_to_resume(cfg)
    if newest is not None:
        if cfg.TRAIN.CHECKPOINT_FILE_PATH:
            _log.info("%s", WEIGHTS_NOT_READ)
        state.restore(read_checkpoint(newest), newest)
        return
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
        if resumes_from(cfg):
            state.restore(read_checkpoint(path), path)
            # The other run's checkpoints are not here, so none of them is the best of this one.
            state.validations = {}
            check_epochs_left(cfg, path, finished_epochs=state.finished_epochs)
        else:
            _log.info("%s", load_initial_weights(cfg, state.model))
            if state.average is not None:
                state.average.restart()


def checkpoint_to_resume(cfg: CfgNode) -> Path | None:
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


def resumes_from(cfg: CfgNode) -> bool:
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


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes:
        path: of the checkpoint.
        is_own: it lies in the run's OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH names it.
        finished_epochs: in the checkpoint.
        finished_steps: of the epoch after them.
        config: the merged config that the checkpoint was written with, as YAML.
    """

    path: Path
    is_own: bool
    finished_epochs: int
    finished_steps: int
    config: str


def check_resume(cfg: CfgNode, model: nn.Module, *, is_in_use: bool = False) -> ResumePoint | None:
    """Compare a new model of a config with the checkpoint that training will go on from.

    By the checks that training itself makes at its start, without copying the checkpoint's
    tensors to memory.

    Args:
        cfg: the config.
        model: as it was built.
        is_in_use: another run trains in OUTPUT_DIR until this one starts, and so will have left
            the epoch of the present checkpoint.

    Returns:
        Where training goes on, or None for a new run.

    Raises:
        UserError: the checkpoint is damaged or does not fit, or nothing is left to train after
            that of another run.
    """
    own = checkpoint_to_resume(cfg)
    if own is None and not resumes_from(cfg):
        return None
    path = own or Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    saved = read_checkpoint(path, lazily=True)
    optimizer = build_optimizer(cfg, model).state_dict()
    check_state(saved, path, model=model.state_dict(), optimizer=optimizer)
    if saved["step"] and not (own and is_in_use):
        check_epoch_plan(_epoch_plan(cfg), saved["epoch_plan"], path)
    if own is None:
        check_epochs_left(cfg, path, finished_epochs=saved["epoch"] + 1)
    return ResumePoint(
        path=path,
        is_own=own is not None,
        finished_epochs=saved["epoch"] + 1,
        finished_steps=saved["step"],
        config=saved["cfg"],
    )


def _epoch_plan(cfg: CfgNode) -> dict[str, int]:
    batches = len(build_loader(cfg, "train", rank=0, world_size=cfg.NUM_GPUS * cfg.NUM_SHARDS))
    steps = batches // cfg.TRAIN.ACCUMULATE_STEPS
    return build_meter(cfg, steps_per_epoch=steps, device=torch.device("cpu")).epoch_plan
