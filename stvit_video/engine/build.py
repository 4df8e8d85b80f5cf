"""Build the components of a training run from a config."""

import warnings
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stvit_video.data.build import build_mixing
from stvit_video.data.coco.dataset import padded_size
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.epochs import EpochRunner
from stvit_video.engine.metrics import StatsWriter, TrainMeter
from stvit_video.engine.optim import build_optimizer
from stvit_video.engine.precision import build_normalize, build_precision
from stvit_video.engine.retention import CheckpointSaver
from stvit_video.engine.schedule import build_schedule
from stvit_video.engine.state import LossGuard, TrainingState, WeightAverage, seed_generators
from stvit_video.engine.step import Classification, Detection, Objective, TrainingStep
from stvit_video.models import build_model
from stvit_video.runtime import distributed


def build_state(cfg: CfgNode, *, steps_per_epoch: int) -> TrainingState:
    """Build a new model on this rank's device, with the same weights on all ranks.

    Raises:
        UserError: the config does not describe a model, or the model cannot be trained with it.
    """
    device = distributed.device()
    seed_generators(cfg.RNG_SEED)
    model = build_model(cfg).to(device)
    return TrainingState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=build_precision(cfg, device).scaler(),
        meter=build_meter(cfg, steps_per_epoch=steps_per_epoch, device=device),
        guard=LossGuard(factor=cfg.TRAIN.KILL_LOSS_EXPLOSION_FACTOR),
        device=device,
        config=cfg.dump(),
        average=WeightAverage(model, decay=cfg.EMA.DECAY) if cfg.EMA.ENABLE else None,
    )


def build_meter(cfg: CfgNode, *, steps_per_epoch: int, device: torch.device) -> TrainMeter:
    """Build the meter of training statistics, timing and progress."""
    return TrainMeter(
        max_epoch=cfg.SOLVER.MAX_EPOCH,
        steps_per_epoch=steps_per_epoch,
        clips_per_step=cfg.TRAIN.BATCH_SIZE
        * cfg.AUG.NUM_SAMPLE
        * cfg.NUM_SHARDS
        * cfg.TRAIN.ACCUMULATE_STEPS,
        device=device,
    )


def build_checkpoint_saver(cfg: CfgNode) -> CheckpointSaver:
    """Build the saver that writes checkpoints and removes old ones."""
    return CheckpointSaver(
        cfg.OUTPUT_DIR, keep_last=cfg.TRAIN.KEEP_LAST, keep_best=cfg.TRAIN.KEEP_BEST
    )


def compile_model(cfg: CfgNode, model: nn.Module) -> None:
    """Compile a model in place if MODEL.COMPILE is set.

    Names of parameters and buffers do not change. Compilation happens in the first forward passes.
    """
    if cfg.MODEL.COMPILE:
        model.compile(backend=cfg.MODEL.COMPILE_BACKEND)


def build_stats_writer(cfg: CfgNode, *, first_step: int) -> StatsWriter:
    """Build the writer of statistics for a run that starts or resumes at ``first_step``."""
    tensorboard_dir = Path(cfg.OUTPUT_DIR) / cfg.TENSORBOARD.LOG_DIR
    return StatsWriter(
        cfg.OUTPUT_DIR,
        tensorboard_dir=tensorboard_dir if cfg.TENSORBOARD.ENABLE else None,
        first_step=first_step,
    )


def build_epoch_runner(
    cfg: CfgNode, state: TrainingState, loader: VideoLoader, stats_writer: StatsWriter
) -> EpochRunner:
    """Build the runner that trains ``state`` one epoch at a time."""
    step = TrainingStep(
        _wrap_in_ddp(state.model, state.device),
        state.optimizer,
        objective=build_objective(cfg, state.device),
        scaler=state.scaler,
        precision=build_precision(cfg, state.device),
        guard=state.guard,
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
    )
    return EpochRunner(
        state,
        step,
        loader,
        schedule=build_schedule(cfg),
        stats_writer=stats_writer,
        output_dir=cfg.OUTPUT_DIR,
        accumulate_steps=cfg.TRAIN.ACCUMULATE_STEPS,
        log_period=cfg.LOG_PERIOD,
    )


def build_objective(cfg: CfgNode, device: torch.device) -> Objective:
    """Build the training objective: classification of videos, or detection in images."""
    normalize = build_normalize(cfg, device)
    if is_detection(cfg):
        return Detection(normalize=normalize)
    return Classification(
        normalize=normalize, loss_function=build_loss(cfg), mixing=build_mixing(cfg)
    )


def is_detection(cfg: CfgNode) -> bool:
    """Return whether the model of a config is a detector rather than a video classifier."""
    return cfg.MODEL.ARCH == "cascade_mask_rcnn"


def input_size(cfg: CfgNode, *, train: bool) -> tuple[int, ...]:
    """Return the input size: (frames, height, width) of a view, or (height, width) of an image.

    Args:
        cfg: config of the model.
        train: return the size of the training crop instead of the test crop; a detector has its
            test size in both cases.
    """
    if is_detection(cfg):
        return padded_size((cfg.DETECTION.TEST_SHORT_SIDE, cfg.DETECTION.MAX_SIZE))
    side = cfg.DATA.TRAIN_CROP_SIZE if train else cfg.DATA.TEST_CROP_SIZE
    return (cfg.DATA.NUM_FRAMES, side, side)


def build_loss(cfg: CfgNode) -> nn.Module:
    """Build the mean loss of (logits, targets) for training and validation.

    It accepts class indices as well as soft targets, and so is the same with mixed labels.
    """
    assert cfg.MODEL.LOSS_FUNC in ("cross_entropy", "soft_cross_entropy"), cfg.MODEL.LOSS_FUNC
    return nn.CrossEntropyLoss()


def _wrap_in_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    if distributed.get_world_size() == 1:
        return model
    # DDP warns about depthwise weights [C, 1, 3, 3], where the stride of the 1 means nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        # Only running statistics can differ between ranks. All other buffers are constants.
        broadcast_buffers=any(isinstance(module, _BatchNorm) for module in model.modules()),
        gradient_as_bucket_view=True,
    )
