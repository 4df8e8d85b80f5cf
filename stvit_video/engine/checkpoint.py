"""Checkpoint files: written whole or not at all, verified, and compared with a run that resumes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from stvit_video.config.keys import flatten
from stvit_video.errors import TransientError, UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import hash_path, recorded_hash, sha256, write_atomically
from stvit_video.runtime.logging import get_logger

# What makes a file a full checkpoint of ours: with all of these a run goes on as if never stopped.
CHECKPOINT_KEYS = (
    *("epoch", "step", "epoch_plan", "model_state", "optimizer_state", "random_states", "meters"),
    *("recent_losses", "validations", "cfg"),
)

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")
_log = get_logger(__name__)


class Position(NamedTuple):
    """How far a run has come: finished epochs, and finished steps of the epoch after them."""

    epochs: int
    steps: int = 0


def checkpoint_folder(output_dir: str | Path) -> Path:
    """Return the folder of the checkpoints of a run."""
    return Path(output_dir) / "checkpoints"


def checkpoint_path(output_dir: str | Path, epochs: int, steps: int = 0) -> Path:
    """Return where the checkpoint after finished epochs (the first is 00001) and steps goes.

    Sorted by name, checkpoints are sorted by age, as PySlowFast expects it.
    """
    inside = f"_step_{steps:06d}" if steps else ""
    return checkpoint_folder(output_dir) / f"checkpoint_epoch_{epochs:05d}{inside}.pyth"


def find_checkpoints(output_dir: str | Path) -> dict[Position, Path]:
    """Return the checkpoints in the folder of a run, the oldest first, good or damaged."""
    found = {}
    for path in checkpoint_folder(output_dir).glob("*.pyth"):
        match = _NAME.fullmatch(path.name)
        if match:
            found[Position(int(match[1]), int(match[2] or 0))] = path
    return dict(sorted(found.items()))


def write_checkpoint(path: Path, contents: dict) -> None:
    """Write ``contents`` atomically, with its SHA-256 beside it, and read the file back.

    Raises:
        TransientError: the disk is full, the folder cannot be written, or the file reads
            differently.
    """
    try:
        write_atomically(path, lambda file: torch.save(contents, file))
    except (OSError, RuntimeError) as error:  # torch.save may wrap the former in the latter
        raise TransientError(
            f"Checkpoint {path} could not be written ({error}); make room or "
            "set OUTPUT_DIR to a folder that can be written, and start again to resume."
        ) from error
    try:
        verify(path)
    except (OSError, UserError) as error:
        raise TransientError(
            f"Checkpoint {path} was written, but reads differently ({error}); look after the disk, "
            "or set OUTPUT_DIR to another one, and start again to resume."
        ) from error
    _log.info("Wrote %s", path)


def verify(path: Path) -> bool:
    """Compare a file with the hash beside it.

    Returns:
        Whether there is one; other programs' files have none.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}; check the path.")
    expected = recorded_hash(path)
    if expected is not None and sha256(path) != expected:
        raise UserError(
            f"Checkpoint {path} is damaged: its SHA-256 is not the one in {hash_path(path).name}; "
            "copy it again or take another one."
        )
    return expected is not None


def read_checkpoint(path: Path, *, lazily: bool = False) -> dict:
    """Verify a checkpoint and read it to the CPU, tensors and plain types only.

    Args:
        path: of the file.
        lazily: leave the tensors of a file with a hash on the disk until they are used.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    is_verified = verify(path)
    if not is_verified:
        _log.warning("%s has no %s beside it: read unverified", path, hash_path(path).name)
    try:
        contents = torch.load(
            path, map_location="cpu", weights_only=True, mmap=lazily and is_verified
        )
    except Exception as error:  # a cut file raises EOFError, RuntimeError, KeyError and others
        raise UserError(
            f"Checkpoint {path} cannot be read ({type(error).__name__}); copy it again or take "
            "another one."
        ) from error
    if not isinstance(contents, dict):
        raise UserError(f"Checkpoint {path} holds a {type(contents).__name__}, not a dictionary.")
    return contents


def is_full_checkpoint(path: Path) -> bool:
    """Return whether a file is one of ours from which training can go on, optimizer and all."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # of another format: the loader of weights says what it is, or what is wrong
        return False
    return isinstance(contents, dict) and all(key in contents for key in CHECKPOINT_KEYS)


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest checkpoint of a run that reads well, or None if there is none at all.

    The main rank decides and tells the others. Every damaged file that it passes over is logged.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    found = _search(Path(output_dir)) if distributed.is_main() else (None, "")
    path, problem = distributed.broadcast_object(found)
    if problem:
        raise UserError(problem)
    return path


def _search(output_dir: Path) -> tuple[Path | None, str]:
    found = find_checkpoints(output_dir)
    for path in reversed(found.values()):
        try:
            read_checkpoint(path, lazily=True)
        except UserError as error:
            _log.warning("Passing over a checkpoint: %s", error)
        else:
            return path, ""
    if found:
        return None, (
            f"None of the {len(found)} checkpoints in {checkpoint_folder(output_dir)} can be read; "
            "restore one, or move the folder away to start from the beginning."
        )
    return None, ""


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
    old, new = flatten(yaml.safe_load(saved)), flatten(yaml.safe_load(current))
    absent = "absent"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _layout(state: Mapping[str, Any]) -> list[tuple[str, int, bool]]:
    # AdamW and SGD differ in the options of their groups: only one of them has betas.
    groups = state["param_groups"]
    return [(group.get("name", ""), len(group["params"]), "betas" in group) for group in groups]
