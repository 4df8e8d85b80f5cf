"""Training: what one rank does from the config to the last checkpoint."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch
from fvcore.common.config import CfgNode

from stvit_video.data.bad_videos import BadVideoLog
from stvit_video.data.build import build_loader
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.build import (
    build_epoch_runner,
    build_keeper,
    build_loss,
    build_recorder,
    build_state,
    compile_model,
    input_size,
    is_detection,
)
from stvit_video.engine.detection import evaluate_detector
from stvit_video.engine.epochs import EpochRunner
from stvit_video.engine.metrics import Recorder, memory
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.resume import resume_or_load
from stvit_video.engine.retention import read_best
from stvit_video.engine.state import TrainingState, seed_generators
from stvit_video.engine.validate import validate
from stvit_video.errors import UserError
from stvit_video.models.profile import count_flops, count_parameters
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import ShouldStop, never, on_any_rank
from stvit_video.runtime.logging import get_logger, setup_logging

_log = get_logger(__name__)


def train(cfg: CfgNode, *, should_stop: ShouldStop = never) -> None:
    """Train the model of a config as one rank of the run; called inside ``run_ranks``.

    Args:
        cfg: the config.
        should_stop: asked after every step and every batch of a validation; once it says so on
            any rank (where it must then go on saying so), all of them write a checkpoint at that
            step, from which the run goes on when it is started again, and return. A validation
            is then done again.

    Raises:
        UserError: something that the config names is missing or does not fit, or the loss is not
            one to go on from.
    """
    setup_logging(cfg.OUTPUT_DIR)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    train_loader = build_loader(cfg, "train", rank=rank, world_size=world_size)
    val_loader = build_loader(cfg, "val", rank=rank, world_size=world_size)
    steps_per_epoch = _steps_per_epoch(train_loader, passes=cfg.TRAIN.ACCUMULATE_STEPS)
    state = build_state(cfg, steps_per_epoch=steps_per_epoch)
    if distributed.is_main():
        _log_plan(cfg, state)
    # From here on dropout and drop path draw differently on every rank.
    seed_generators(cfg.RNG_SEED + rank)
    resume_or_load(cfg, state)
    if _is_finished(cfg, state):
        _log.info("Nothing is left to train: %d epochs are done", state.finished_epochs)
        return
    compile_model(cfg, state.model)
    if state.average is not None:
        compile_model(cfg, state.average.model)
    recorder = build_recorder(cfg, first_step=state.total_steps)
    with closing(recorder):
        _run_epochs(
            cfg,
            state,
            run_epoch=build_epoch_runner(cfg, state, train_loader, recorder),
            bad_video_log=train_loader.bad_video_log,
            run_validation=partial(_validate, cfg, state, val_loader, recorder, should_stop),
            should_stop=on_any_rank(should_stop),
        )


def _is_finished(cfg: CfgNode, state: TrainingState) -> bool:
    if state.finished_epochs < cfg.SOLVER.MAX_EPOCH:
        return False
    validated = read_best(cfg.OUTPUT_DIR).get("validated_epochs")
    return distributed.broadcast_object(validated) == state.finished_epochs


def _run_epochs(
    cfg: CfgNode,
    state: TrainingState,
    *,
    run_epoch: EpochRunner,
    bad_video_log: BadVideoLog,
    run_validation: Callable[[], bool],
    should_stop: ShouldStop,
) -> None:
    keeper = build_keeper(cfg)

    def is_due(period: int) -> bool:
        return state.finished_epochs % period == 0 or state.finished_epochs == cfg.SOLVER.MAX_EPOCH

    def after_step() -> bool:
        if should_stop():
            return True
        period = cfg.TRAIN.CHECKPOINT_STEPS
        if period and state.finished_steps % period == 0:
            keeper.save(state)
        return False

    def validate_if_due() -> bool:
        if not is_due(cfg.TRAIN.EVAL_PERIOD):
            return True
        if not run_validation():
            keeper.save_unless_written(state)
            return False
        keeper.validated(state)
        return True

    def share_bad_videos() -> None:
        try:
            bad_video_log.share()
        except UserError:
            # The epoch is done, and is not lost.
            keeper.save_unless_written(state)
            raise

    goes_on = True
    if state.finished_epochs and not state.finished_steps:
        # The checkpoint was written before its validation, which may have been cut off.
        goes_on = validate_if_due()
    while goes_on and state.finished_epochs < cfg.SOLVER.MAX_EPOCH:
        goes_on = run_epoch(after_step=after_step) and not should_stop()
        if not goes_on or is_due(cfg.TRAIN.CHECKPOINT_PERIOD):
            keeper.save(state)
        if goes_on:
            share_bad_videos()
            goes_on = validate_if_due()
    if not goes_on:
        _log.info("Stopped as asked; start again to go on")


def _validate(
    cfg: CfgNode,
    state: TrainingState,
    loader: VideoLoader,
    recorder: Recorder,
    should_stop: ShouldStop,
) -> bool:
    """Validate and write the result, or return False if it was cut short."""
    measured = _measure(cfg, state, loader, should_stop)
    if measured is None:
        return False
    state.validations[state.finished_epochs] = measured
    lowest = {
        f"min_{name}": min(each[name] for each in state.validations.values())
        for name in measured
        if name.endswith("_err")
    }
    line = {
        "_type": "val_epoch",
        "epoch": f"{state.finished_epochs}/{cfg.SOLVER.MAX_EPOCH}",
        **measured,
        **lowest,
        **memory(state.device),
    }
    recorder.validation(line, step=state.total_steps)
    return True


def _measure(
    cfg: CfgNode, state: TrainingState, loader: VideoLoader, should_stop: ShouldStop
) -> dict[str, float] | None:
    average = state.average if cfg.EMA.EVAL else None
    model = state.model if average is None else average.model
    normalize = build_normalize(cfg, state.device)
    precision = build_precision(cfg, state.device)
    if is_detection(cfg):
        evaluated = evaluate_detector(
            model, loader, normalize=normalize, precision=precision, should_stop=should_stop
        )
        return None if evaluated is None else evaluated.metrics
    return validate(
        model,
        loader,
        normalize=normalize,
        precision=precision,
        loss_function=build_loss(cfg),
        should_stop=should_stop,
    )


def _steps_per_epoch(loader: VideoLoader, *, passes: int) -> int:
    if len(loader) < passes:
        raise UserError(
            f"TRAIN.ACCUMULATE_STEPS is {passes}, but an epoch has {len(loader)} batches; lower "
            "it, or lower TRAIN.BATCH_SIZE."
        )
    return len(loader) // passes


def _log_plan(cfg: CfgNode, state: TrainingState) -> None:
    _log.info(
        "Training for %d epochs of %d steps; clips a step: %d; ranks: %d",
        cfg.SOLVER.MAX_EPOCH,
        state.meter.steps_per_epoch,
        state.meter.clips_per_step,
        distributed.get_world_size(),
    )
    if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE and cfg.AUG.COLOR_JITTER:
        _log.info("AUG.COLOR_JITTER is not used, as AUG.AA_TYPE is set (as in PySlowFast)")
    if cfg.LOG_MODEL_INFO:
        # What a detector's heads cost depends on what they find.
        part = state.model.get_submodule("backbone" if is_detection(cfg) else "")
        view = torch.zeros(1, 3, *input_size(cfg, train=True), device=state.device)
        _log.info(
            "Model %s: %.4g M parameters, %.4g G FLOPs (multiply-adds) %s %s",
            cfg.MODEL.MODEL_NAME or cfg.MODEL.ARCH,
            count_parameters(state.model) / 1e6,
            count_flops(part, view) / 1e9,
            "in its backbone for an image of" if is_detection(cfg) else "a view of",
            " x ".join(map(str, view.shape[2:])),
        )
