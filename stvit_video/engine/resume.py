"""Resume training from a checkpoint, load initial weights, and find the checkpoint to test."""

from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_loader
from stvit_video.engine.build import build_meter
from stvit_video.engine.checkpoint import (
    check_compatible,
    check_epoch_plan,
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

# Value of TEST.CHECKPOINT_FILE_PATH for the checkpoint with the lowest validation error.
BEST = "best"
# Note on a run that resumes although its config names initial weights.
WEIGHTS_NOT_READ = (
    "TRAIN.CHECKPOINT_FILE_PATH is not read because the run resumes from its own checkpoint in "
    "OUTPUT_DIR"
)

_log = get_logger(__name__)


def resume_or_load(cfg: CfgNode, state: TrainingState) -> None:
    """Fill a new training state from the checkpoint or weights that the config names, if any.

    As in PySlowFast, the newest readable checkpoint in OUTPUT_DIR comes first (TRAIN.AUTO_RESUME),
    then TRAIN.CHECKPOINT_FILE_PATH. Training resumes from the latter at its epoch if it is a full
    checkpoint and TRAIN.CHECKPOINT_EPOCH_RESET is off. Otherwise only its weights are loaded.

    Raises:
        UserError: a file is missing, damaged or does not fit; also as
            :func:`checkpoint_to_resume` does.
    """
    newest = checkpoint_to_resume(cfg)
    if newest is not None:
        if cfg.TRAIN.CHECKPOINT_FILE_PATH:
            _log.info("%s", WEIGHTS_NOT_READ)
        state.load_state_dict(read_checkpoint(newest), newest)
        return
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
        if _resumes_from_file(cfg):
            state.load_state_dict(read_checkpoint(path), path)
            # The validated checkpoints of the other run are not in this OUTPUT_DIR.
            state.validations = {}
            _check_epochs_left(cfg, path, finished_epochs=state.finished_epochs)
        else:
            _log.info("%s", load_initial_weights(cfg, state.model))
            if state.average is not None:
                state.average.restart()


def checkpoint_to_resume(cfg: CfgNode) -> Path | None:
    """Return the checkpoint in OUTPUT_DIR to resume from, or None for a new run.

    Raises:
        UserError: all checkpoints are damaged, or there are checkpoints and TRAIN.AUTO_RESUME is
            off. A new run would mix its own with them, and a test would use the wrong ones.
    """
    newest = newest_checkpoint(cfg.OUTPUT_DIR)
    if newest is not None and not cfg.TRAIN.AUTO_RESUME:
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds checkpoints (the newest is {newest.name}), "
            "which a new run must not mix with its own; set another OUTPUT_DIR, move them away, "
            "or set TRAIN.AUTO_RESUME to True to resume from them."
        )
    return newest


def load_initial_weights(cfg: CfgNode, model: nn.Module) -> LoadReport:
    """Load the weights of TRAIN.CHECKPOINT_FILE_PATH, in any supported format, into ``model``.

    Raises:
        UserError: the file is missing or damaged, or fills less than TRAIN.CHECKPOINT_MIN_SHARE.
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


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that training resumes from.

    Attributes:
        path: the checkpoint file.
        is_own: whether it is in the run's OUTPUT_DIR rather than TRAIN.CHECKPOINT_FILE_PATH.
        finished_epochs: finished epochs of the checkpoint.
        finished_steps: finished steps of the epoch after them.
        config: merged config of the checkpoint, as YAML.
    """

    path: Path
    is_own: bool
    finished_epochs: int
    finished_steps: int
    config: str


def check_resume(cfg: CfgNode, model: nn.Module, *, is_in_use: bool = False) -> ResumePoint | None:
    """Check that training can resume, without loading the checkpoint's tensors into memory.

    The checks are those that training itself makes when it starts.

    Args:
        cfg: config of the run.
        model: newly built model of the config.
        is_in_use: another run trains in OUTPUT_DIR until this one starts, and so will have
            finished the epoch of the present checkpoint.

    Returns:
        The checkpoint that training resumes from, or None for a new run.

    Raises:
        UserError: the checkpoint is damaged or does not fit, or another run's checkpoint has
            finished all epochs.
    """
    own = checkpoint_to_resume(cfg)
    if own is None and not _resumes_from_file(cfg):
        return None
    path = own or Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    saved = read_checkpoint(path, lazily=True)
    optimizer = build_optimizer(cfg, model)
    check_compatible(saved, path, model=model.state_dict(), optimizer=optimizer.state_dict())
    if saved["step"] and not (own and is_in_use):
        check_epoch_plan(_epoch_plan(cfg), saved["epoch_plan"], path)
    if own is None:
        _check_epochs_left(cfg, path, finished_epochs=saved["epoch"] + 1)
    return ResumePoint(
        path=path,
        is_own=own is not None,
        finished_epochs=saved["epoch"] + 1,
        finished_steps=saved["step"],
        config=saved["cfg"],
    )


def checkpoint_to_test(cfg: CfgNode) -> Path:
    """Return the file of TEST.CHECKPOINT_FILE_PATH, or else the newest checkpoint in OUTPUT_DIR.

    "best" is the checkpoint in OUTPUT_DIR with the lowest validation error.

    Raises:
        UserError: there is no checkpoint, or it is damaged. Random weights are never tested.
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


def load_test_weights(cfg: CfgNode, model: nn.Module, path: Path) -> LoadReport:
    """Load the weights of a checkpoint, or their average if EMA.EVAL is set, into ``model``.

    Raises:
        UserError: the file cannot be read, does not fit, or holds no average.
    """
    averaged = cfg.EMA.ENABLE and cfg.EMA.EVAL
    if averaged:
        # The average is float32 for every MODEL.PARAM_DTYPE, as in the validation.
        model.float()
    return load_weights(model, path, min_share=1.0, averaged=averaged)


def _resumes_from_file(cfg: CfgNode) -> bool:
    """Return whether training resumes from TRAIN.CHECKPOINT_FILE_PATH, instead of its weights."""
    path = Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    return not cfg.TRAIN.CHECKPOINT_EPOCH_RESET and is_full_checkpoint(path)


def _check_epochs_left(cfg: CfgNode, path: Path, *, finished_epochs: int) -> None:
    if finished_epochs >= cfg.SOLVER.MAX_EPOCH:
        raise UserError(
            f"TRAIN.CHECKPOINT_FILE_PATH {path} has finished epoch {finished_epochs}, and "
            f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}: nothing is left to train; set "
            "TRAIN.CHECKPOINT_EPOCH_RESET to True to load only its weights, or raise MAX_EPOCH."
        )


def _epoch_plan(cfg: CfgNode) -> dict[str, int]:
    batches = len(build_loader(cfg, "train", rank=0, world_size=cfg.NUM_GPUS * cfg.NUM_SHARDS))
    steps = batches // cfg.TRAIN.ACCUMULATE_STEPS
    return build_meter(cfg, steps_per_epoch=steps, device=torch.device("cpu")).epoch_plan
