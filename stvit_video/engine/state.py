"""Training state: model, weight average, optimizer, random states and recent losses."""

import copy
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from stvit_video.engine.checkpoint import changed_keys, check_compatible, check_epoch_plan
from stvit_video.engine.metrics import TrainMeter
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger

# Number of recent losses that a new loss is compared with, and the least number to compare.
_LOSS_WINDOW = 20
_MIN_LOSSES = 5

_log = get_logger(__name__)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (the CPU's and every GPU's)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture_random_state(device: torch.device) -> dict:
    """Return the random states of this rank, in types that ``weights_only`` loading accepts."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict, device: torch.device) -> None:
    """Restore the random states of this rank that :func:`capture_random_state` returned.

    A state captured on the CPU leaves the generator of a GPU unchanged.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class WeightAverage:
    """Exponential moving average (EMA) of a model's weights, in float32.

    Unlike ``torch.optim.swa_utils.AveragedModel``, it averages a bfloat16 model in float32, where
    small updates are not rounded away, and never averages integers.

    Args:
        model: the model to average. Its floating-point weights and buffers are averaged, all
            others are copied.
        decay: weight of the old average in each update.

    Attributes:
        model: the averaged model, in evaluation mode.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        averages, sources = self.model.state_dict(), model.state_dict()
        pairs = [(averages[name], sources[name]) for name in averages]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average; call this after each optimizer step."""
        averages = [average for average, _ in self._averaged]
        values = [value.to(average.dtype) for average, value in self._averaged]
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        self._copy(self._copied)

    @torch.no_grad()
    def restart(self) -> None:
        """Reset the average to the current weights of the model."""
        self._copy([*self._averaged, *self._copied])

    @staticmethod
    def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for average, source in pairs:
            average.copy_(source)


class BadLossError(UserError):
    """The loss or its gradient is not finite, or the loss has exploded.

    Attributes:
        problem: description of the problem, such as "the loss became nan".
        loss: loss of this rank.
        from_gradient: whether only the gradient is bad.
    """

    def __init__(self, problem: str, *, loss: float, from_gradient: bool = False) -> None:
        super().__init__(f"Training stopped because {problem}.")
        self.problem = problem
        self.loss = loss
        self.from_gradient = from_gradient


class LossGuard:
    """Detect losses that are not finite or have exploded.

    Args:
        factor: largest ratio of a loss to the median of the recent losses; 0 accepts every finite
            loss.

    Attributes:
        recent: recent good losses, oldest first.
    """

    def __init__(self, *, factor: float = 0.0) -> None:
        self.factor = factor
        self.recent: list[float] = []

    def check(self, loss: float) -> str:
        """Check the loss of a step, and add a good one to the recent losses.

        Args:
            loss: mean over all ranks, so that all ranks get the same result.

        Returns:
            The problem as a clause, such as "the loss became nan", or "" for a good loss.
        """
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if self.factor and len(self.recent) >= _MIN_LOSSES:
            recent_median = median(self.recent)
            if loss > self.factor * recent_median:
                return (
                    f"the loss rose to {loss:.4g}, more than {self.factor:g} times "
                    "(TRAIN.KILL_LOSS_EXPLOSION_FACTOR) the median of the last steps, "
                    f"{recent_median:.4g}"
                )
        self.recent = [*self.recent, loss][-_LOSS_WINDOW:]
        return ""


@dataclass
class TrainingState:
    """State of a training run, which its checkpoints save and restore.

    Attributes:
        model: the model, not wrapped in DDP.
        optimizer: optimizer of the model.
        scaler: loss scaler, disabled unless training runs in float16.
        meter: training statistics of this rank.
        guard: detects bad losses, and holds the recent ones.
        device: device of this rank.
        config: merged config as YAML; a string, as ``weights_only`` loading refuses other objects.
        average: moving average of the weights, if enabled.
        finished_epochs: finished epochs of the run.
        finished_steps: finished optimizer steps of the current epoch.
        validations: number of finished epochs -> results of their validation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: TrainMeter
    guard: LossGuard
    device: torch.device
    config: str
    average: WeightAverage | None = None
    finished_epochs: int = 0
    finished_steps: int = 0
    validations: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Optimizer steps since the run began."""
        return self.finished_epochs * self.meter.steps_per_epoch + self.finished_steps

    def state_dict(self, *, random_state: dict | None = None) -> dict[str, Any]:
        """Return the contents of a full checkpoint; every rank must call this.

        Args:
            random_state: random state of this rank; by default the current one.
        """
        rank_state = (random_state or capture_random_state(self.device), self.meter.state_dict())
        random_states, meters = zip(*distributed.gather_objects(rank_state), strict=True)
        contents = {
            # Like PySlowFast, count from 0 here and from 1 in the file name. PySlowFast resumes
            # at the start of the next epoch.
            "epoch": self.finished_epochs - 1,
            "step": self.finished_steps,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "random_states": list(random_states),
            "meters": list(meters),
            "epoch_plan": self.meter.epoch_plan,
            "recent_losses": self.guard.recent,
            "validations": self.validations,
            "cfg": self.config,
        }
        if self.scaler.is_enabled():
            contents["scaler_state"] = self.scaler.state_dict()
        if self.average is not None:
            contents["ema_state"] = self.average.model.state_dict()
        return contents

    def load_state_dict(self, contents: Mapping[str, Any], path: Path) -> None:
        """Restore a full checkpoint, and log the keys in which its config differs.

        Only the moments of the optimizer are restored. Its hyperparameters (weight decay, betas,
        ...) are those of the current config.

        Args:
            contents: contents of the checkpoint, see :meth:`state_dict`.
            path: the file, for messages.

        Raises:
            UserError: the checkpoint is of another program, another model or another optimizer, or
                was written inside an epoch that is divided into other steps.
        """
        optimizer_state = self.optimizer.state_dict()
        check_compatible(contents, path, model=self.model.state_dict(), optimizer=optimizer_state)
        if contents["step"]:
            check_epoch_plan(self.meter.epoch_plan, contents["epoch_plan"], path)
        self.model.load_state_dict(contents["model_state"])
        optimizer_state["state"] = contents["optimizer_state"]["state"]
        self.optimizer.load_state_dict(optimizer_state)
        if self.scaler.is_enabled() and contents.get("scaler_state"):
            self.scaler.load_state_dict(contents["scaler_state"])
        self._restore_average(contents.get("ema_state"))
        self.finished_epochs, self.finished_steps = contents["epoch"] + 1, contents["step"]
        self.validations = dict(contents["validations"])
        self.guard.recent = list(contents["recent_losses"])
        self._restore_ranks(contents)
        for change in changed_keys(contents["cfg"], self.config):
            _log.warning("The config differs from the checkpoint's: %s", change)
        steps = f" and {self.finished_steps} steps" if self.finished_steps else ""
        _log.info("Resuming from %s, after epoch %d%s", path, self.finished_epochs, steps)

    def _restore_average(self, saved: dict | None) -> None:
        if self.average is None:
            return
        if saved is None:
            _log.warning(
                "The checkpoint holds no averaged weights; averaging starts from its weights"
            )
            self.average.restart()
        else:
            self.average.model.load_state_dict(saved)

    def _restore_ranks(self, contents: Mapping[str, Any]) -> None:
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
        random_states, meters = contents["random_states"], contents["meters"]
        if len(random_states) != world_size:
            _log.warning(
                "The checkpoint is of %d ranks and this run has %d; dropout and drop path use new "
                "random numbers, and the epoch's means cover only its remaining steps",
                len(random_states),
                world_size,
            )
            return
        restore_random_state(random_states[rank], self.device)
        self.meter.load_state_dict(meters[rank])
