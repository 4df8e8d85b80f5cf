"""What a training run carries from one epoch to the next, to a checkpoint and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from stvit_video.engine.checkpoint import checkpoint_path, write_checkpoint
from stvit_video.engine.random_state import capture_random_state, restore_random_state
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger

_log = get_logger(__name__)


@dataclass
class TrainingState:
    """The model (unwrapped), its optimizer and loss scaler, and how far they have come."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    # The merged config as YAML, a string because weights_only loading refuses other objects.
    config: str
    finished_epochs: int = 0
    # The lowest validation errors so far, by name.
    lowest_errors: dict[str, float] = field(default_factory=dict)

    def save(self, output_dir: str | Path) -> None:
        """Write the checkpoint of the epoch that has just finished; every rank must call this."""
        random_states = distributed.gather_objects(capture_random_state(self.device))
        if not distributed.is_main():
            return
        contents = {
            # PySlowFast counts this one from 0, and the file's name from 1.
            "epoch": self.finished_epochs - 1,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "random_states": random_states,
            "lowest_errors": self.lowest_errors,
            "cfg": self.config,
        }
        if self.scaler.is_enabled():
            contents["scaler_state"] = self.scaler.state_dict()
        write_checkpoint(checkpoint_path(output_dir, self.finished_epochs), contents)

    def restore(self, contents: Mapping[str, Any], path: Path) -> None:
        """Go on from a full checkpoint; what differs between its config and this one is logged.

        Hyperparameters of the optimizer (weight decay, betas, ...) are those of the config, only
        its moments come from the file.

        Args:
            contents: of the checkpoint, see :meth:`save`.
            path: where it was read, for messages.

        Raises:
            UserError: the checkpoint is of another model or another optimizer.
        """
        _check_fit(self.model.state_dict(), contents["model_state"], path)
        self.model.load_state_dict(contents["model_state"])
        self._restore_optimizer(contents["optimizer_state"], path)
        if self.scaler.is_enabled() and contents.get("scaler_state"):
            self.scaler.load_state_dict(contents["scaler_state"])
        self.finished_epochs = contents["epoch"] + 1
        self.lowest_errors = dict(contents.get("lowest_errors", {}))
        self._restore_random_state(contents["random_states"])
        for change in changed_keys(contents["cfg"], self.config):
            _log.warning("The config differs from the checkpoint's: %s", change)
        _log.info("Going on from %s, after epoch %d", path, self.finished_epochs)

    def _restore_optimizer(self, saved: dict, path: Path) -> None:
        own = self.optimizer.state_dict()
        if _layout(saved) != _layout(own):
            raise UserError(
                f"Checkpoint {path} holds the state of another optimizer or other parameter "
                "groups; use the SOLVER keys it was written with, or take its weights alone "
                "(TRAIN.CHECKPOINT_FILE_PATH with TRAIN.CHECKPOINT_EPOCH_RESET True)."
            )
        self.optimizer.load_state_dict(
            {"state": saved["state"], "param_groups": own["param_groups"]}
        )

    def _restore_random_state(self, states: list[dict]) -> None:
        if len(states) != distributed.get_world_size():
            _log.warning(
                "The checkpoint is of %d ranks and this run has %d: dropout and drop path draw "
                "from new streams",
                len(states),
                distributed.get_world_size(),
            )
            return
        restore_random_state(states[distributed.get_rank()], self.device)


def changed_keys(saved: str, current: str) -> list[str]:
    """Return "KEY: old -> new" for every key whose value differs between two YAML configs."""
    old, new = _flatten(yaml.safe_load(saved)), _flatten(yaml.safe_load(current))
    absent = "absent"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _layout(state: dict) -> list[tuple[str, int, bool]]:
    # AdamW and SGD differ in the options of their groups: only one of them has betas.
    groups = state["param_groups"]
    return [(group.get("name", ""), len(group["params"]), "betas" in group) for group in groups]


def _check_fit(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    problems = [f"{name} is missing there" for name in own.keys() - saved.keys()]
    problems += [f"{name} is unknown here" for name in saved.keys() - own.keys()]
    problems += [
        f"{name} is {list(saved[name].shape)} there and {list(own[name].shape)} here"
        for name in own.keys() & saved.keys()
        if saved[name].shape != own[name].shape
    ]
    if problems:
        problem = min(problems)
        rest = f", and {len(problems) - 1} more differences" if len(problems) > 1 else ""
        raise UserError(
            f"Checkpoint {path} is of another model ({problem}{rest}); use the config it was "
            "written with and another OUTPUT_DIR for this one, or take its weights alone "
            "(TRAIN.CHECKPOINT_FILE_PATH with TRAIN.CHECKPOINT_EPOCH_RESET True)."
        )
