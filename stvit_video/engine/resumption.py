"""What a run will go on from, compared with the run before it starts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.data.build import build_loader
from stvit_video.engine.build import build_meter
from stvit_video.engine.checkpoint import read_checkpoint
from stvit_video.engine.compare import check_epoch_plan, check_state
from stvit_video.engine.optim import build_optimizer
from stvit_video.engine.start import check_epochs_left, goes_on_from, run_to_resume


@dataclass(frozen=True)
class Resumption:
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


def check_resumption(
    cfg: CfgNode, model: nn.Module, *, is_in_use: bool = False
) -> Resumption | None:
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
    own = run_to_resume(cfg)
    if own is None and not goes_on_from(cfg):
        return None
    path = own or Path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    saved = read_checkpoint(path, lazily=True)
    optimizer = build_optimizer(cfg, model).state_dict()
    check_state(saved, path, model=model.state_dict(), optimizer=optimizer)
    if saved["step"] and not (own and is_in_use):
        check_epoch_plan(_epoch_plan(cfg), saved["epoch_plan"], path)
    if own is None:
        check_epochs_left(cfg, path, finished_epochs=saved["epoch"] + 1)
    return Resumption(
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
