"""The learning rate as a function of the fractional epoch, exactly as PySlowFast computes it."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.config import CfgNode

Policy = Callable[[float], float]


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``base_lr`` at epoch ``offset`` to ``end_lr`` at ``max_epoch``."""

    base_lr: float
    end_lr: float
    max_epoch: float
    offset: float = 0.0

    def __call__(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch."""
        progress = (epoch - self.offset) / (self.max_epoch - self.offset)
        return self.end_lr + (self.base_lr - self.end_lr) * 0.5 * (math.cos(math.pi * progress) + 1)


@dataclass(frozen=True)
class Steps:
    """Constant pieces: ``base_lr * factors[i]`` from epoch ``steps[i]`` on; ``steps[0]`` is 0."""

    base_lr: float
    steps: tuple[float, ...]
    factors: tuple[float, ...]

    def __call__(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch."""
        return self.base_lr * self.factors[bisect_right(self.steps, epoch) - 1]


@dataclass(frozen=True)
class Schedule:
    """A policy behind a linear warm-up that ends at the policy's own value at ``warmup_epochs``."""

    policy: Policy
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 0.0

    def __call__(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch (0 is the first step of training)."""
        if epoch >= self.warmup_epochs:
            return self.policy(epoch)
        end = self.policy(self.warmup_epochs)
        return self.warmup_start_lr + (end - self.warmup_start_lr) * epoch / self.warmup_epochs


def scaled_base_lr(cfg: CfgNode) -> float:
    """Return SOLVER.BASE_LR, times NUM_SHARDS if SOLVER.BASE_LR_SCALE_NUM_SHARDS says so."""
    return cfg.SOLVER.BASE_LR * _scale(cfg)


def build_schedule(cfg: CfgNode) -> Schedule:
    """Build the schedule of the ``SOLVER`` keys."""
    solver = cfg.SOLVER
    scale = _scale(cfg)
    base_lr = scaled_base_lr(cfg)
    policy: Policy
    if solver.LR_POLICY == "cosine":
        offset = solver.WARMUP_EPOCHS if solver.COSINE_AFTER_WARMUP else 0.0
        policy = Cosine(base_lr, solver.COSINE_END_LR * scale, solver.MAX_EPOCH, offset)
    else:
        assert solver.LR_POLICY == "steps_with_relative_lrs", solver.LR_POLICY
        policy = Steps(base_lr, tuple(solver.STEPS), tuple(solver.LRS))
    return Schedule(policy, solver.WARMUP_EPOCHS, solver.WARMUP_START_LR * scale)


def _scale(cfg: CfgNode) -> int:
    return cfg.NUM_SHARDS if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1
