"""What differs between a checkpoint and the run that is to go on from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from stvit_video.engine.checkpoint import CHECKPOINT_KEYS
from stvit_video.errors import UserError


def check_state(
    saved: Mapping[str, Any],
    path: Path,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
) -> None:
    """Compare a checkpoint with the run that is to go on from it.

    Args:
        saved: the checkpoint's contents.
        path: where they were read, for messages.
        model: state dict of the run's model.
        optimizer: state dict of its optimizer.

    Raises:
        UserError: the checkpoint is of another program, another model or another optimizer.
    """
    check_complete(saved, path)
    check_model(model, saved["model_state"], path)
    check_optimizer(optimizer, saved["optimizer_state"], path)


def check_complete(saved: Mapping[str, Any], path: Path) -> None:
    """Look for the keys that a run goes on from.

    Raises:
        UserError: ``saved``, read from ``path``, lacks one.
    """
    missing = [key for key in CHECKPOINT_KEYS if key not in saved]
    if missing:
        raise UserError(
            f"Checkpoint {path} was written by another program or version ({missing[0]} is missing "
            "there); move it away, or take its weights alone (TRAIN.CHECKPOINT_FILE_PATH)."
        )


def check_model(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Compare the names and shapes of two state dicts.

    Raises:
        UserError: ``saved``, read from ``path``, is of another model than ``own``.
    """
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


def check_optimizer(own: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Compare the parameter groups of two optimizer states.

    Raises:
        UserError: ``saved``, read from ``path``, is of another optimizer or other groups.
    """
    if _layout(saved) != _layout(own):
        raise UserError(
            f"Checkpoint {path} holds the state of another optimizer or other parameter "
            "groups; use the SOLVER keys it was written with, or take its weights alone "
            "(TRAIN.CHECKPOINT_FILE_PATH with TRAIN.CHECKPOINT_EPOCH_RESET True)."
        )


def check_epoch_plan(own: Mapping[str, int], saved: Mapping[str, int], path: Path) -> None:
    """Compare what an epoch consists of, which must not change inside it.

    Raises:
        UserError: ``saved``, read from ``path``, divides its epoch in another way than ``own``.
    """
    for name, count in own.items():
        if saved.get(name) != count:
            raise UserError(
                f"Checkpoint {path} was written inside an epoch whose {name} are "
                f"{saved.get(name)}, and here they are {count}; go on with the same data and "
                "TRAIN.BATCH_SIZE x NUM_SHARDS x TRAIN.ACCUMULATE_STEPS, or move the file away "
                "to go on from the end of the epoch before."
            )


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


def _layout(state: Mapping[str, Any]) -> list[tuple[str, int, bool]]:
    # AdamW and SGD differ in the options of their groups: only one of them has betas.
    groups = state["param_groups"]
    return [(group.get("name", ""), len(group["params"]), "betas" in group) for group in groups]
