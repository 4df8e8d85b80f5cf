"""What a training run carries from one step to the next, to a checkpoint and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stvit_video.engine.average import WeightAverage
from stvit_video.engine.compare import changed_keys, check_epoch_plan, check_state
from stvit_video.engine.loss_guard import LossGuard
from stvit_video.engine.meters import TrainMeter
from stvit_video.engine.random_state import capture_random_state, restore_random_state
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger

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
