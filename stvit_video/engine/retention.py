"""Which checkpoints of a run stay on disk, and which of them is the best."""

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

# What a validation measures and the best is lowest in: of classification, of detection.
_ERRORS = ("top1_err", "box_AP_err")
# What a run can go on from, should the newest one be damaged.
_ALWAYS_KEPT = 2

_log = get_logger(__name__)


class CheckpointKeeper:
    """Write the checkpoints of a run, and remove older ones once a new one has been verified.

    Args:
        output_dir: of the run.
        keep_last: newest finished epochs whose checkpoints stay; 0: all.
        keep_best: finished epochs of the lowest validation errors whose checkpoints stay.
    """

    def __init__(self, output_dir: str | Path, *, keep_last: int = 0, keep_best: int = 1) -> None:
        self.output_dir = Path(output_dir)
        self.keep_last = keep_last
        self.keep_best = keep_best

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint of where ``state`` stands; every rank must call this.

        Raises:
            TransientError: it could not be written, or reads differently; nothing is removed then.
        """
        contents = state.contents()
        if distributed.is_main():
            path = checkpoint_path(self.output_dir, state.finished_epochs, state.finished_steps)
            write_checkpoint(path, contents)
            self._remove_older(state)

    def save_unless_written(self, state: TrainingState) -> None:
        """Write the checkpoint of where ``state`` stands if there is no good one; all ranks call.

        A damaged one may be there, that was passed over when the run went on.
        """
        path = checkpoint_path(self.output_dir, state.finished_epochs, state.finished_steps)
        if not distributed.broadcast_object(distributed.is_main() and _is_good(path)):
            self.save(state)

    def validated(self, state: TrainingState) -> None:
        """Keep the epoch that has just been validated, if it is one of the best; all ranks call.

        Its checkpoint is written now if none was due; best.json says which is the best of all.
        """
        if state.finished_epochs in best_epochs(state.validations, count=self.keep_best):
            self.save_unless_written(state)
        if distributed.is_main():
            _write_best(self.output_dir, state)
            self._remove_older(state)

    def _remove_older(self, state: TrainingState) -> None:
        now = Position(state.finished_epochs, state.finished_steps)
        found = find_checkpoints(self.output_dir)
        # What is newer than the state was passed over when the run went on, because it is damaged.
        good = [position for position in found if position <= now]
        best = best_epochs(state.validations, count=self.keep_best)
        for position in obsolete(good, keep_last=self.keep_last, best=best):
            remove(found[position])
            _log.info("Removed %s", found[position])


def _is_good(path: Path) -> bool:
    try:
        verify(path)
    except UserError:
        return False
    return True


def best_epochs(validations: Mapping[int, Mapping[str, float]], *, count: int) -> list[int]:
    """Return the finished epochs of the lowest errors, the best first, of equals the earlier.

    Args:
        validations: finished epochs -> what their validation measured.
        count: at most so many.
    """

    def error(epochs: int) -> float:
        measured = validations[epochs]
        return next(measured[name] for name in _ERRORS if name in measured)

    return sorted(validations, key=lambda epochs: (error(epochs), epochs))[:count]


def obsolete(
    positions: Collection[Position], *, keep_last: int, best: Collection[int]
) -> list[Position]:
    """Return the checkpoints that need not stay.

    Of those inside an epoch none is needed once there are two newer ones of any kind.

    Args:
        positions: of all checkpoints.
        keep_last: newest finished epochs that stay; 0: all.
        best: finished epochs that stay however old they are.
    """
    newest = sorted(positions)[-_ALWAYS_KEPT:]
    finished = [position for position in sorted(positions) if position.steps == 0]
    kept = {
        *newest,
        *finished[-keep_last:],
        *(position for position in finished if position.epochs in best),
    }
    return sorted(set(positions) - kept)


def best_checkpoint(output_dir: str | Path) -> Path:
    """Return the checkpoint of the lowest validation error of a run.

    Raises:
        UserError: the run has none.
    """
    record = read_best(output_dir)
    path = checkpoint_folder(output_dir) / record.get("checkpoint", "")
    if not record or not path.is_file():
        raise UserError(
            f"{checkpoint_folder(output_dir)} holds no best checkpoint; train with TRAIN.KEEP_BEST "
            "1 or more, or name another file in TEST.CHECKPOINT_FILE_PATH."
        )
    return path


def read_best(output_dir: str | Path) -> dict:
    """Return what best.json of a run says, or nothing if there is none."""
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
        # So that a run whose last validation was cut off can tell.
        "validated_epochs": state.finished_epochs,
    }
    text = json.dumps(record, indent=2) + "\n"
    write_bytes_atomically(_best_file(output_dir), text.encode())


def _best_file(output_dir: str | Path) -> Path:
    return checkpoint_folder(output_dir) / "best.json"
