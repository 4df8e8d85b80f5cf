"""The state of a training run: weights and their average, optimizer, random numbers, losses."""

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

from stvit_video.engine.checkpoint import changed_keys, check_epoch_plan, check_state
from stvit_video.engine.metrics import TrainMeter
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (the CPU's and every GPU's)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture_random_state(device: torch.device) -> dict:
    """Return the states of this rank's generators, in types that ``weights_only`` accepts."""
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
    """Put this rank's generators back where :func:`capture_random_state` found them.

    A state that was captured on the CPU leaves a GPU's generator as it is.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class WeightAverage:
    """A copy of a model, in float32, whose weights follow the model's slowly.

    Unlike ``torch.optim.swa_utils.AveragedModel`` it averages the weights of a bfloat16 model in
    float32, where small steps toward them are not lost, and never averages integers.

    Args:
        model: what is followed; its floating-point weights and buffers are averaged, the others
            copied.
        decay: share of the average that stays at each update.

    Attributes:
        model: the average, in evaluation mode.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        own, followed = self.model.state_dict(), model.state_dict()
        pairs = [(own[name], followed[name]) for name in own]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move toward the model; to be called after each step of the optimizer."""
        averages = [average for average, _ in self._averaged]
        values = [value.to(average.dtype) for average, value in self._averaged]
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        self._copy(self._copied)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights that the model has now."""
        self._copy([*self._averaged, *self._copied])

    @staticmethod
    def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for own, followed in pairs:
            own.copy_(followed)


# Steps that a loss is compared with, and how many of them there must be.
_WINDOW = 20
_ENOUGH = 5


class BadLossError(UserError):
    """The loss is not finite or has exploded, or its gradient is not finite.

    Attributes:
        problem: what is wrong, "the loss became nan".
        loss: of this rank.
        is_of_gradient: the loss itself is right.
    """

    def __init__(self, problem: str, *, loss: float, is_of_gradient: bool = False) -> None:
        super().__init__(f"Training stopped because {problem}.")
        self.problem = problem
        self.loss = loss
        self.is_of_gradient = is_of_gradient


class LossGuard:
    """Say what is wrong with a loss.

    Args:
        factor: largest ratio of a loss to the median of those before it; 0: any finite loss is
            right.

    Attributes:
        recent: the losses that the next one is compared with, the oldest first.
    """

    def __init__(self, *, factor: float = 0.0) -> None:
        self.factor = factor
        self.recent: list[float] = []

    def problem(self, loss: float) -> str:
        """Return what is wrong with the loss of a step, as a part of a sentence.

        Args:
            loss: mean over all ranks, so that all of them judge alike.

        Returns:
            nothing for a good loss, which then counts among the recent ones.
        """
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if self.factor and len(self.recent) >= _ENOUGH:
            usual = median(self.recent)
            if loss > self.factor * usual:
                return (
                    f"the loss rose to {loss:.4g}, more than {self.factor:g} times "
                    f"(TRAIN.KILL_LOSS_EXPLOSION_FACTOR) the {usual:.4g} of the steps before"
                )
        self.recent = [*self.recent, loss][-_WINDOW:]
        return ""


_log = get_logger(__name__)


@dataclass
class TrainingState:
    """The model (unwrapped), all that changes while it is trained, and how far that has come."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: TrainMeter
    guard: LossGuard
    device: torch.device
    # The merged config as YAML, a string because weights_only loading refuses other objects.
    config: str
    average: WeightAverage | None = None
    # Optimizer steps finished in the epoch after the finished ones.
    finished_epochs: int = 0
    finished_steps: int = 0
    # What the validations measured, by the epochs that were finished then.
    validations: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Steps of the optimizer since the run began."""
        return self.finished_epochs * self.meter.steps_per_epoch + self.finished_steps

    def contents(self, *, random_state: dict | None = None) -> dict[str, Any]:
        """Return all of it as a checkpoint's contents; every rank must call this.

        Args:
            random_state: of this rank, if not that of this moment.
        """
        own = (random_state or capture_random_state(self.device), self.meter.state_dict())
        random_states, meters = zip(*distributed.gather_objects(own), strict=True)
        contents = {
            # PySlowFast counts this one from 0, and the file's name from 1; its programs begin
            # the epoch after it anew.
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

    def restore(self, contents: Mapping[str, Any], path: Path) -> None:
        """Go on from a full checkpoint; what differs between its config and this one is logged.

        Hyperparameters of the optimizer (weight decay, betas, ...) are those of the config, only
        its moments come from the file.

        Args:
            contents: of the checkpoint, see :meth:`contents`.
            path: where it was read, for messages.

        Raises:
            UserError: the checkpoint is of another program, another model, another optimizer, or
                of the inside of an epoch that is divided into other steps.
        """
        groups = self.optimizer.state_dict()
        check_state(contents, path, model=self.model.state_dict(), optimizer=groups)
        if contents["step"]:
            check_epoch_plan(self.meter.epoch_plan, contents["epoch_plan"], path)
        self.model.load_state_dict(contents["model_state"])
        self.optimizer.load_state_dict({**groups, "state": contents["optimizer_state"]["state"]})
        if self.scaler.is_enabled() and contents.get("scaler_state"):
            self.scaler.load_state_dict(contents["scaler_state"])
        self._restore_average(contents.get("ema_state"))
        self.finished_epochs, self.finished_steps = contents["epoch"] + 1, contents["step"]
        self.validations = dict(contents["validations"])
        self.guard.recent = list(contents["recent_losses"])
        self._restore_ranks(contents)
        for change in changed_keys(contents["cfg"], self.config):
            _log.warning("The config differs from the checkpoint's: %s", change)
        inside = f" and {self.finished_steps} steps" if self.finished_steps else ""
        _log.info("Going on from %s, after epoch %d%s", path, self.finished_epochs, inside)

    def _restore_average(self, saved: dict | None) -> None:
        if self.average is None:
            return
        if saved is None:
            _log.warning("The checkpoint holds no averaged weights: the average begins with it")
            self.average.restart()
        else:
            self.average.model.load_state_dict(saved)

    def _restore_ranks(self, contents: Mapping[str, Any]) -> None:
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        random_states, meters = contents["random_states"], contents["meters"]
        if len(random_states) != ranks:
            _log.warning(
                "The checkpoint is of %d ranks and this run has %d: dropout and drop path draw "
                "from new streams, and the epoch's means are of its steps from here on",
                len(random_states),
                ranks,
            )
            return
        restore_random_state(random_states[rank], self.device)
        self.meter.load_state_dict(meters[rank])
