"""Training: what one rank does from the config to the last checkpoint."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from stvit_video.data.build import build_loader
from stvit_video.engine.epochs import EpochRunner
from stvit_video.engine.evaluate import validate
from stvit_video.engine.meters import TrainMeter, memory
from stvit_video.engine.optim import build_optimizer
from stvit_video.engine.precision import build_normalise, build_precision
from stvit_video.engine.profile import count_flops, count_parameters
from stvit_video.engine.random_state import seed_generators
from stvit_video.engine.recorder import Recorder
from stvit_video.engine.schedule import build_schedule
from stvit_video.engine.start import start_from_files
from stvit_video.engine.state import TrainingState
from stvit_video.engine.step import TrainingStep
from stvit_video.errors import UserError
from stvit_video.models import build_model
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
    train_loader, val_loader = _build_loader(cfg, "train"), _build_loader(cfg, "val")
    steps_per_epoch = _steps_per_epoch(train_loader, passes=cfg.TRAIN.ACCUMULATE_STEPS)
    state = _build_state(cfg)
    if cfg.LOG_MODEL_INFO and distributed.is_main():
        _log_model_info(cfg, state)
    # From here on dropout and drop path draw differently on every rank.
    seed_generators(cfg.RNG_SEED + distributed.get_rank())
    start_from_files(cfg, state)
    if state.finished_epochs >= cfg.SOLVER.MAX_EPOCH:
        _log.info("Nothing is left to train: %d epochs are done", state.finished_epochs)
        return
    recorder = Recorder(
        cfg.OUTPUT_DIR,
        tensorboard_dir=_tensorboard_dir(cfg),
        first_step=state.finished_epochs * steps_per_epoch,
    )
    meter = TrainMeter(
        max_epoch=cfg.SOLVER.MAX_EPOCH, steps_per_epoch=steps_per_epoch, device=state.device
    )
    run_epoch = EpochRunner(
        _build_step(cfg, state),
        train_loader,
        schedule=build_schedule(cfg),
        meter=meter,
        recorder=recorder,
        passes=cfg.TRAIN.ACCUMULATE_STEPS,
        log_period=cfg.LOG_PERIOD,
    )
    with closing(recorder):
        _run_epochs(
            cfg,
            state,
            run_epoch=run_epoch,
            run_validation=lambda: _validate(cfg, state, val_loader, recorder, steps_per_epoch),
        )


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
        # The checkpoint is written before its validation, which may have been cut off.
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
    loader: DataLoader,
    recorder: Recorder,
    steps_per_epoch: int,
) -> None:
    measured = validate(
        state.model,
        loader,
        normalise=build_normalise(cfg, state.device),
        precision=build_precision(cfg, state.device),
        loss_function=_build_loss(cfg),
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


def _build_loader(cfg: CfgNode, split: str) -> DataLoader:
    return build_loader(
        cfg, split, rank=distributed.get_rank(), world_size=distributed.get_world_size()
    )


def _steps_per_epoch(loader: DataLoader, *, passes: int) -> int:
    if len(loader) < passes:
        raise UserError(
            f"TRAIN.ACCUMULATE_STEPS is {passes}, but an epoch has {len(loader)} batches; lower "
            "it, or lower TRAIN.BATCH_SIZE."
        )
    return len(loader) // passes


def _build_state(cfg: CfgNode) -> TrainingState:
    device = distributed.device()
    # The same initial weights on every rank.
    seed_generators(cfg.RNG_SEED)
    model = build_model(cfg).to(device)
    return TrainingState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=build_precision(cfg, device).scaler(),
        device=device,
        config=cfg.dump(),
    )


def _build_step(cfg: CfgNode, state: TrainingState) -> TrainingStep:
    return TrainingStep(
        _synchronised(state.model, state.device),
        state.optimizer,
        scaler=state.scaler,
        normalise=build_normalise(cfg, state.device),
        precision=build_precision(cfg, state.device),
        loss_function=_build_loss(cfg),
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
    )


def _synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    if distributed.get_world_size() == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        # Only running statistics can differ between ranks; all other buffers are constants.
        broadcast_buffers=any(isinstance(module, _BatchNorm) for module in model.modules()),
        gradient_as_bucket_view=True,
    )


def _build_loss(cfg: CfgNode) -> nn.Module:
    assert cfg.MODEL.LOSS_FUNC == "cross_entropy", cfg.MODEL.LOSS_FUNC
    return nn.CrossEntropyLoss()


def _tensorboard_dir(cfg: CfgNode) -> Path | None:
    if not cfg.TENSORBOARD.ENABLE:
        return None
    return Path(cfg.OUTPUT_DIR) / cfg.TENSORBOARD.LOG_DIR


def _log_model_info(cfg: CfgNode, state: TrainingState) -> None:
    size = cfg.DATA.TRAIN_CROP_SIZE
    clip = torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, size, size, device=state.device)
    _log.info(
        "Model %s: %.2f M parameters, %.2f G FLOPs (multiply-adds) a view of %d x %d x %d",
        cfg.MODEL.ARCH,
        count_parameters(state.model) / 1e6,
        count_flops(state.model, clip) / 1e9,
        *clip.shape[2:],
    )
