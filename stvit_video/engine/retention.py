"""Save checkpoints, remove old ones, and record the one with the lowest validation error."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from stvit_video.engine.checkpoint import (
    Position,
    checkpoint_folder,
    checkpoint_path,
    find_checkpoints,
    verify,
    write_checkpoint,
)
from stvit_video.engine.state import TrainingState
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.atomic_files import remove, write_bytes_atomically
from stvit_video.runtime.logging import get_logger

# Validation errors that the best checkpoint minimizes, for classification and for detection.
_ERRORS = ("top1_err", "box_AP_err")
# Newest checkpoints that are never removed: the second is the fallback if the first is damaged.
_MIN_KEPT = 2

_log = get_logger(__name__)


class CheckpointSaver:
    """Save the checkpoints of a run, and remove old ones once a new one has been verified.

    Args:
        output_dir: OUTPUT_DIR of the run.
        keep_last: number of newest epochs whose checkpoints are kept; 0 keeps all.
        keep_best: number of epochs with the lowest validation errors whose checkpoints are kept.
    """

    def __init__(self, output_dir: str | Path, *, keep_last: int = 0, keep_best: int = 1) -> None:
        self.output_dir = Path(output_dir)
        self.keep_last = keep_last
        self.keep_best = keep_best

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint of ``state``; every rank must call this.

        Raises:
            TransientError: the file could not be written or verified; nothing is removed then.
        """
        contents = state.state_dict()
        if distributed.is_main():
            path = checkpoint_path(self.output_dir, state.finished_epochs, state.finished_steps)
            write_checkpoint(path, contents)
            self._remove_obsolete(state)

    def save_if_missing(self, state: TrainingState) -> None:
        """Write a checkpoint of ``state`` unless a valid one exists; every rank must call this.

        A damaged one exists if it was skipped when the run resumed.
        """
        path = checkpoint_path(self.output_dir, state.finished_epochs, state.finished_steps)
        if not distributed.broadcast_object(distributed.is_main() and _is_valid(path)):
            self.save(state)

    def update_best(self, state: TrainingState) -> None:
        """Save the epoch just validated if it is among the best; every rank must call this.

        Its checkpoint is written even if none was due. best.json records the best of all epochs.
        """
        if state.finished_epochs in best_epochs(state.validations, count=self.keep_best):
            self.save_if_missing(state)
        if distributed.is_main():
            _write_best(self.output_dir, state)
            self._remove_obsolete(state)

    def _remove_obsolete(self, state: TrainingState) -> None:
        current = Position(state.finished_epochs, state.finished_steps)
        checkpoints = find_checkpoints(self.output_dir)
        # Checkpoints newer than the state are damaged ones that were skipped on resuming.
        candidates = [position for position in checkpoints if position <= current]
        best = best_epochs(state.validations, count=self.keep_best)
        for position in obsolete_checkpoints(candidates, keep_last=self.keep_last, best=best):
            remove(checkpoints[position])
            _log.info("Removed %s", checkpoints[position])


def best_epochs(validations: Mapping[int, Mapping[str, float]], *, count: int) -> list[int]:
    """Return the epochs with the lowest validation errors, best first.

    The earlier of two epochs with equal errors is better.

    Args:
        validations: number of finished epochs -> results of their validation.
        count: largest number of epochs to return.
    """

    def error(epochs: int) -> float:
        results = validations[epochs]
        return next(results[name] for name in _ERRORS if name in results)

    return sorted(validations, key=lambda epochs: (error(epochs), epochs))[:count]


def obsolete_checkpoints(
    positions: Collection[Position], *, keep_last: int, best: Collection[int]
) -> list[Position]:
    """Return the checkpoints that can be removed.

    A checkpoint inside an epoch is obsolete once there are two newer ones of any kind.

    Args:
        positions: positions of all checkpoints.
        keep_last: number of newest finished epochs to keep; 0 keeps all.
        best: finished epochs to keep regardless of their age.
    """
    newest = sorted(positions)[-_MIN_KEPT:]
    finished = [position for position in sorted(positions) if position.steps == 0]
    kept = {
        *newest,
        *finished[-keep_last:],
        *(position for position in finished if position.epochs in best),
    }
    return sorted(set(positions) - kept)


def best_checkpoint(output_dir: str | Path) -> Path:
    """Return the checkpoint of a run with the lowest validation error.

    Raises:
        UserError: the run has no best checkpoint.
    """
    record = read_best_record(output_dir)
    path = checkpoint_folder(output_dir) / record.get("checkpoint", "")
    if not record or not path.is_file():
        raise UserError(
            f"{checkpoint_folder(output_dir)} holds no best checkpoint; train with TRAIN.KEEP_BEST "
            "1 or more, or name another file in TEST.CHECKPOINT_FILE_PATH."
        )
    return path


def read_best_record(output_dir: str | Path) -> dict:
    """Return the contents of a run's best.json, or an empty dictionary if it is missing."""
    try:
        return json.loads(_best_file(output_dir).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _write_best(output_dir: Path, state: TrainingState) -> None:
    (epochs,) = best_epochs(state.validations, count=1)
    record = {
        "checkpoint": checkpoint_path(output_dir, epochs).name,
        "epochs": epochs,
        **state.validations[epochs],
        # Tells a run that resumes whether its last validation was interrupted.
        "validated_epochs": state.finished_epochs,
    }
    text = json.dumps(record, indent=2) + "\n"
    write_bytes_atomically(_best_file(output_dir), text.encode())


def _best_file(output_dir: str | Path) -> Path:
    return checkpoint_folder(output_dir) / "best.json"


def _is_valid(path: Path) -> bool:
    try:
        verify(path)
    except UserError:
        return False
    return True
