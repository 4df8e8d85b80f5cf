"""Train the model of a config: the training loop of one rank."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch
from fvcore.common.config import CfgNode

from stvit_video.data.bad_videos import BadVideoLog
from stvit_video.data.build import build_loader
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.build import (
    build_checkpoint_saver,
    build_epoch_runner,
    build_loss,
    build_state,
    build_stats_writer,
    compile_model,
    input_size,
    is_detection,
)
from stvit_video.engine.detection import evaluate_detector
from stvit_video.engine.epochs import EpochRunner
from stvit_video.engine.metrics import StatsWriter, memory_stats
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.resume import resume_or_load
from stvit_video.engine.retention import read_best_record
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
        cfg: config of the run.
        should_stop: called after every training step and every validation batch. Once it returns
            True on any rank (where it must keep doing so), all ranks save a checkpoint at that
            step and return. The run resumes from it when it is started again, and repeats an
            interrupted validation.

    Raises:
        UserError: something that the config names is missing or does not fit, or training must
            stop because of its loss.
    """
    setup_logging(cfg.OUTPUT_DIR)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    train_loader = build_loader(cfg, "train", rank=rank, world_size=world_size)
    val_loader = build_loader(cfg, "val", rank=rank, world_size=world_size)
    steps_per_epoch = _steps_per_epoch(cfg, train_loader)
    state = build_state(cfg, steps_per_epoch=steps_per_epoch)
    if distributed.is_main():
        _log_setup(cfg, state)
    # From here on, dropout and drop path use different random numbers on every rank.
    seed_generators(cfg.RNG_SEED + rank)
    resume_or_load(cfg, state)
    if _is_finished(cfg, state):
        _log.info("Nothing is left to train: all %d epochs are finished", state.finished_epochs)
        return
    compile_model(cfg, state.model)
    if state.average is not None:
        compile_model(cfg, state.average.model)
    stats_writer = build_stats_writer(cfg, first_step=state.total_steps)
    with closing(stats_writer):
        _run_epochs(
            cfg,
            state,
            run_epoch=build_epoch_runner(cfg, state, train_loader, stats_writer),
            bad_video_log=train_loader.bad_video_log,
            run_validation=partial(_validate, cfg, state, val_loader, stats_writer, should_stop),
            should_stop=on_any_rank(should_stop),
        )


def _is_finished(cfg: CfgNode, state: TrainingState) -> bool:
    if state.finished_epochs < cfg.SOLVER.MAX_EPOCH:
        return False
    validated_epochs = read_best_record(cfg.OUTPUT_DIR).get("validated_epochs")
    return distributed.broadcast_object(validated_epochs) == state.finished_epochs


def _run_epochs(
    cfg: CfgNode,
    state: TrainingState,
    *,
    run_epoch: EpochRunner,
    bad_video_log: BadVideoLog,
    run_validation: Callable[[], bool],
    should_stop: ShouldStop,
) -> None:
    saver = build_checkpoint_saver(cfg)

    def is_due(period: int) -> bool:
        return state.finished_epochs % period == 0 or state.finished_epochs == cfg.SOLVER.MAX_EPOCH

    def after_step() -> bool:
        if should_stop():
            return True
        period = cfg.TRAIN.CHECKPOINT_STEPS
        if period and state.finished_steps % period == 0:
            saver.save(state)
        return False

    def validate_if_due() -> bool:
        if not is_due(cfg.TRAIN.EVAL_PERIOD):
            return True
        if not run_validation():
            saver.save_if_missing(state)
            return False
        saver.update_best(state)
        return True

    def share_bad_videos() -> None:
        try:
            bad_video_log.share()
        except UserError:
            # Save the finished epoch before the run stops.
            saver.save_if_missing(state)
            raise

    running = True
    if state.finished_epochs and not state.finished_steps:
        # The checkpoint was saved before its validation, which may have been interrupted.
        running = validate_if_due()
    while running and state.finished_epochs < cfg.SOLVER.MAX_EPOCH:
        running = run_epoch(after_step=after_step) and not should_stop()
        if not running or is_due(cfg.TRAIN.CHECKPOINT_PERIOD):
            saver.save(state)
        if running:
            share_bad_videos()
            running = validate_if_due()
    if not running:
        _log.info("Stopped on request; start again to resume")


def _validate(
    cfg: CfgNode,
    state: TrainingState,
    loader: VideoLoader,
    stats_writer: StatsWriter,
    should_stop: ShouldStop,
) -> bool:
    """Validate and write the results; return False if the validation was interrupted."""
    results = _evaluate(cfg, state, loader, should_stop)
    if results is None:
        return False
    state.validations[state.finished_epochs] = results
    min_errors = {
        f"min_{name}": min(validation[name] for validation in state.validations.values())
        for name in results
        if name.endswith("_err")
    }
    stats = {
        "_type": "val_epoch",
        "epoch": f"{state.finished_epochs}/{cfg.SOLVER.MAX_EPOCH}",
        **results,
        **min_errors,
        **memory_stats(state.device),
    }
    stats_writer.write_val(stats, step=state.total_steps)
    return True


def _evaluate(
    cfg: CfgNode, state: TrainingState, loader: VideoLoader, should_stop: ShouldStop
) -> dict[str, float] | None:
    average = state.average if cfg.EMA.EVAL else None
    model = state.model if average is None else average.model
    normalize = build_normalize(cfg, state.device)
    precision = build_precision(cfg, state.device)
    if is_detection(cfg):
        evaluation = evaluate_detector(
            model, loader, normalize=normalize, precision=precision, should_stop=should_stop
        )
        return None if evaluation is None else evaluation.metrics
    return validate(
        model,
        loader,
        normalize=normalize,
        precision=precision,
        loss_function=build_loss(cfg),
        should_stop=should_stop,
    )


def _steps_per_epoch(cfg: CfgNode, loader: VideoLoader) -> int:
    accumulate_steps = cfg.TRAIN.ACCUMULATE_STEPS
    if len(loader) < accumulate_steps:
        raise UserError(
            f"TRAIN.ACCUMULATE_STEPS is {accumulate_steps}, but an epoch has {len(loader)} "
            "batches; lower it, or lower TRAIN.BATCH_SIZE."
        )
    return len(loader) // accumulate_steps


def _log_setup(cfg: CfgNode, state: TrainingState) -> None:
    _log.info(
        "Training for %d epochs of %d steps; clips a step: %d; ranks: %d",
        cfg.SOLVER.MAX_EPOCH,
        state.meter.steps_per_epoch,
        state.meter.clips_per_step,
        distributed.get_world_size(),
    )
    if cfg.AUG.ENABLE and cfg.AUG.AA_TYPE and cfg.AUG.COLOR_JITTER:
        _log.info("AUG.COLOR_JITTER is not used because AUG.AA_TYPE is set (as in PySlowFast)")
    if cfg.LOG_MODEL_INFO:
        # The FLOPs of a detector's heads depend on the number of detections.
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
