"""Write, find, verify and read checkpoint files, and check that a run can resume from them."""

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

# Keys of a full checkpoint. A run that resumes from one continues as if it had never stopped.
CHECKPOINT_KEYS = (
    "epoch",
    "step",
    "epoch_plan",
    "model_state",
    "optimizer_state",
    "random_states",
    "meters",
    "recent_losses",
    "validations",
    "cfg",
)

_NAME_PATTERN = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")
_log = get_logger(__name__)


class Position(NamedTuple):
    """Progress of a run: finished epochs, and finished steps of the current epoch."""

    epochs: int
    steps: int = 0


def checkpoint_folder(output_dir: str | Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(output_dir) / "checkpoints"


def checkpoint_path(output_dir: str | Path, epochs: int, steps: int = 0) -> Path:
    """Return the path of the checkpoint after this many finished epochs and steps.

    The checkpoint after the first epoch is 00001. Sorting by name sorts checkpoints by age, as
    PySlowFast expects.
    """
    suffix = f"_step_{steps:06d}" if steps else ""
    return checkpoint_folder(output_dir) / f"checkpoint_epoch_{epochs:05d}{suffix}.pyth"


def find_checkpoints(output_dir: str | Path) -> dict[Position, Path]:
    """Return all checkpoints of a run, oldest first, whether readable or damaged."""
    checkpoints = {}
    for path in checkpoint_folder(output_dir).glob("*.pyth"):
        match = _NAME_PATTERN.fullmatch(path.name)
        if match:
            checkpoints[Position(int(match[1]), int(match[2] or 0))] = path
    return dict(sorted(checkpoints.items()))


def write_checkpoint(path: Path, contents: dict) -> None:
    """Write a checkpoint atomically with its SHA-256 in a second file, then verify it.

    Raises:
        TransientError: the disk is full, the folder is not writable, or the file does not match
            its hash when read back.
    """
    try:
        write_atomically(path, lambda file: torch.save(contents, file))
    except (OSError, RuntimeError) as error:  # torch.save may wrap OSError
        raise TransientError(
            f"Checkpoint {path} could not be written ({error}); free disk space or "
            "set OUTPUT_DIR to a writable folder, and start again to resume."
        ) from error
    try:
        verify(path)
    except (OSError, UserError) as error:
        raise TransientError(
            f"Checkpoint {path} was written but failed verification ({error}); check the disk or "
            "set OUTPUT_DIR to a folder on another one, and start again to resume."
        ) from error
    _log.info("Wrote %s", path)


def verify(path: Path) -> bool:
    """Verify a file against its SHA-256 file.

    Returns:
        Whether there is a SHA-256 file; checkpoints of other programs have none.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"Checkpoint {path} does not exist; check the path.")
    expected = recorded_hash(path)
    if expected is not None and sha256(path) != expected:
        raise UserError(
            f"Checkpoint {path} is damaged: its SHA-256 does not match {hash_path(path).name}; "
            "copy it again or use another one."
        )
    return expected is not None


def read_checkpoint(path: Path, *, lazily: bool = False) -> dict:
    """Verify a checkpoint and load it to the CPU, tensors and plain types only.

    Args:
        path: the file.
        lazily: memory-map the tensors of a verified file instead of reading them.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    is_verified = verify(path)
    if not is_verified:
        _log.warning("%s is loaded without verification: %s is missing", path, hash_path(path).name)
    try:
        contents = torch.load(
            path, map_location="cpu", weights_only=True, mmap=lazily and is_verified
        )
    except Exception as error:  # truncated files raise EOFError, RuntimeError, KeyError ...
        raise UserError(
            f"Checkpoint {path} cannot be read ({type(error).__name__}); copy it again or use "
            "another one."
        ) from error
    if not isinstance(contents, dict):
        raise UserError(
            f"Checkpoint {path} must contain a dictionary, not {type(contents).__name__}; use "
            "another one."
        )
    return contents


def is_full_checkpoint(path: Path) -> bool:
    """Return whether training can resume from a file, with its optimizer and random states."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another format, which the loader of weights recognizes or rejects
        return False
    return isinstance(contents, dict) and all(key in contents for key in CHECKPOINT_KEYS)


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest readable checkpoint of a run, or None if the run has no checkpoints.

    Only the main rank searches; all ranks get its result. Damaged checkpoints are skipped and
    logged.

    Raises:
        UserError: all checkpoints are damaged.
    """
    result = _find_newest(Path(output_dir)) if distributed.is_main() else (None, "")
    path, problem = distributed.broadcast_object(result)
    if problem:
        raise UserError(problem)
    return path


def _find_newest(output_dir: Path) -> tuple[Path | None, str]:
    """Return the newest readable checkpoint, or None and the error if all are damaged."""
    checkpoints = find_checkpoints(output_dir)
    for path in reversed(checkpoints.values()):
        try:
            read_checkpoint(path, lazily=True)
        except UserError as error:
            _log.warning("Skipping a checkpoint: %s", error)
        else:
            return path, ""
    if checkpoints:
        return None, (
            f"None of the {len(checkpoints)} checkpoints in {checkpoint_folder(output_dir)} can be "
            "read; restore one, or move the folder away to start from the beginning."
        )
    return None, ""


def check_compatible(
    saved: Mapping[str, Any],
    path: Path,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
) -> None:
    """Check that a run can resume from a checkpoint.

    Args:
        saved: contents of the checkpoint.
        path: the file, for error messages.
        model: state dict of the run's model.
        optimizer: state dict of the run's optimizer.

    Raises:
        UserError: the checkpoint is of another program, another model or another optimizer.
    """
    _check_keys(saved, path)
    _check_model(model, saved["model_state"], path)
    _check_optimizer(optimizer, saved["optimizer_state"], path)


def check_epoch_plan(own: Mapping[str, int], saved: Mapping[str, int], path: Path) -> None:
    """Check that a checkpoint inside an epoch divides the epoch into steps as this run does.

    Raises:
        UserError: the number of steps or of clips in a step differs.
    """
    for name, count in own.items():
        if saved.get(name) != count:
            raise UserError(
                f"Checkpoint {path} was written inside an epoch of {saved.get(name)} {name}, but "
                f"this run has {count}; resume with the same data and TRAIN.BATCH_SIZE x "
                "NUM_SHARDS x TRAIN.ACCUMULATE_STEPS, or move the file away to resume from the "
                "end of the previous epoch."
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


def _check_keys(saved: Mapping[str, Any], path: Path) -> None:
    missing = [key for key in CHECKPOINT_KEYS if key not in saved]
    if missing:
        raise UserError(
            f"Checkpoint {path} was written by another program or version ({missing[0]} is missing "
            "in it); move it away, or load only its weights (TRAIN.CHECKPOINT_FILE_PATH)."
        )


def _check_model(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    problems = [f"{name} is missing in the file" for name in own.keys() - saved.keys()]
    problems += [f"the model has no {name}" for name in saved.keys() - own.keys()]
    problems += [
        f"{name} is {list(saved[name].shape)} in the file and {list(own[name].shape)} in the model"
        for name in own.keys() & saved.keys()
        if saved[name].shape != own[name].shape
    ]
    if problems:
        others = f", and {len(problems) - 1} more differences" if len(problems) > 1 else ""
        raise UserError(
            f"Checkpoint {path} is of another model ({min(problems)}{others}); use the config it "
            "was written with, set another OUTPUT_DIR for this one, or load only its weights "
            "(TRAIN.CHECKPOINT_FILE_PATH with TRAIN.CHECKPOINT_EPOCH_RESET True)."
        )


def _check_optimizer(own: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    if _group_layout(saved) != _group_layout(own):
        raise UserError(
            f"Checkpoint {path} is of another optimizer or of other parameter groups; use the "
            "SOLVER keys it was written with, or load only its weights "
            "(TRAIN.CHECKPOINT_FILE_PATH with TRAIN.CHECKPOINT_EPOCH_RESET True)."
        )


def _group_layout(state: Mapping[str, Any]) -> list[tuple[str, int, bool]]:
    # Only the groups of AdamW have betas, which tells them from those of SGD.
    groups = state["param_groups"]
    return [(group.get("name", ""), len(group["params"]), "betas" in group) for group in groups]
