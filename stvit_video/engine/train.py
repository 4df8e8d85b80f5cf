"""Training: what one rank does from the config to the last checkpoint."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch
from fvcore.common.config import CfgNode

from stvit_video.data.build import build_loader
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.build import build_epoch_runner, build_loss, build_recorder, build_state
from stvit_video.engine.evaluate import validate
from stvit_video.engine.meters import memory
from stvit_video.engine.precision import build_normalise, build_precision
from stvit_video.engine.profile import count_flops, count_parameters
from stvit_video.engine.random_state import seed_generators
from stvit_video.engine.recorder import Recorder
from stvit_video.engine.start import start_from_files
from stvit_video.engine.state import TrainingState
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger, setup_logging

_log = get_logger(__name__)


def train(cfg: CfgNode) -> None:
    """Train the model of a config as one rank of the run; called inside ``run_ranks``.

    Raises:
        UserError: something that the config names is missing or does not fit, or the loss is not
            finite.
    """
    setup_logging(cfg.OUTPUT_DIR)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    train_loader = build_loader(cfg, "train", rank=rank, world_size=world_size)
    val_loader = build_loader(cfg, "val", rank=rank, world_size=world_size)
    steps_per_epoch = _steps_per_epoch(train_loader, passes=cfg.TRAIN.ACCUMULATE_STEPS)
    state = build_state(cfg)
    if distributed.is_main():
        _log_plan(cfg, state, steps_per_epoch=steps_per_epoch)
    # From here on dropout and drop path draw differently on every rank.
    seed_generators(cfg.RNG_SEED + rank)
    start_from_files(cfg, state)
    if state.finished_epochs >= cfg.SOLVER.MAX_EPOCH:
        _log.info("Nothing is left to train: %d epochs are done", state.finished_epochs)
        return
    recorder = build_recorder(cfg, first_step=state.finished_epochs * steps_per_epoch)
    with closing(recorder):
        run_epoch = build_epoch_runner(
            cfg, state, train_loader, recorder, steps_per_epoch=steps_per_epoch
        )
        run_validation = partial(
            _validate, cfg, state, val_loader, recorder, steps_per_epoch=steps_per_epoch
        )
        _run_epochs(cfg, state, run_epoch=run_epoch, run_validation=run_validation)


def _run_epochs(
    cfg: CfgNode,
    state: TrainingState,
    *,
    run_epoch: Callable[[int], None],
    run_validation: Callable[[], None],
) -> None:
    def is_due(period: int) -> bool:
        return state.finished_epochs % period == 0 or state.finished_epochs == cfg.SOLVER.MAX_EPOCH

    if state.finished_epochs and is_due(cfg.TRAIN.EVAL_PERIOD):
        # The checkpoint was written before its validation, which may have been cut off.
        run_validation()
    for epoch in range(state.finished_epochs, cfg.SOLVER.MAX_EPOCH):
        run_epoch(epoch)
        state.finished_epochs = epoch + 1
        if is_due(cfg.TRAIN.CHECKPOINT_PERIOD):
            state.save(cfg.OUTPUT_DIR)
        if is_due(cfg.TRAIN.EVAL_PERIOD):
            run_validation()


def _validate(
    cfg: CfgNode,
    state: TrainingState,
    loader: VideoLoader,
    recorder: Recorder,
    *,
    steps_per_epoch: int,
) -> None:
    measured = validate(
        state.model,
        loader,
        normalise=build_normalise(cfg, state.device),
        precision=build_precision(cfg, state.device),
        loss_function=build_loss(cfg),
    )
    for name in ("top1_err", "top5_err"):
        lowest = min(measured[name], state.lowest_errors.get(name, 100.0))
        state.lowest_errors[name] = measured[f"min_{name}"] = lowest
    line = {
        "_type": "val_epoch",
        "epoch": f"{state.finished_epochs}/{cfg.SOLVER.MAX_EPOCH}",
        **measured,
        **memory(state.device),
    }
    recorder.validation(line, step=state.finished_epochs * steps_per_epoch)


def _steps_per_epoch(loader: VideoLoader, *, passes: int) -> int:
    if len(loader) < passes:
        raise UserError(
            f"TRAIN.ACCUMULATE_STEPS is {passes}, but an epoch has {len(loader)} batches; lower "
            "it, or lower TRAIN.BATCH_SIZE."
        )
    return len(loader) // passes


def _log_plan(cfg: CfgNode, state: TrainingState, *, steps_per_epoch: int) -> None:
    _log.info(
        "Training for %d epochs of %d steps; clips a step: %d; ranks: %d",
        cfg.SOLVER.MAX_EPOCH,
        steps_per_epoch,
        cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * cfg.TRAIN.ACCUMULATE_STEPS,
        distributed.get_world_size(),
    )
    if cfg.LOG_MODEL_INFO:
        size = cfg.DATA.TRAIN_CROP_SIZE
        clip = torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, size, size, device=state.device)
        _log.info(
            "Model %s: %.4g M parameters, %.4g G FLOPs (multiply-adds) a view of %d x %d x %d",
            cfg.MODEL.MODEL_NAME or cfg.MODEL.ARCH,
            count_parameters(state.model) / 1e6,
            count_flops(state.model, clip) / 1e9,
            *clip.shape[2:],
        )
