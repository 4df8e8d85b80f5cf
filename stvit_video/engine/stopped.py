"""What a run leaves behind when its loss makes it stop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stvit_video.engine.checkpoint import write_checkpoint
from stvit_video.engine.loss_guard import BadLossError
from stvit_video.engine.state import TrainingState
from stvit_video.errors import UserError
from stvit_video.runtime import distributed


def stopped_path(output_dir: str | Path, state: TrainingState) -> Path:
    """Return where the state before a bad step goes, apart from what a run goes on from."""
    name = f"stopped_epoch_{state.finished_epochs:05d}_step_{state.finished_steps:06d}.pyth"
    return Path(output_dir) / "stopped" / name


def stop(
    error: BadLossError,
    state: TrainingState,
    batches: Sequence[Mapping[str, Any]],
    *,
    lr: float,
    random_state: dict,
    output_dir: str | Path,
) -> UserError:
    """Write what led to a bad loss, and return the sentence about it; every rank must call this.

    The file is a full checkpoint of the moment before the step: a run that goes on from it
    (TRAIN.CHECKPOINT_FILE_PATH) makes the same step with the same batch and random numbers.
    Its entry ``stopped`` holds the loss and, by rank, the videos.

    Args:
        error: what the step raised; the weights are still those before it.
        state: of the run, at the step.
        batches: of the step on this rank.
        lr: learning rate of the step.
        random_state: of this rank before the step.
        output_dir: of the run.
    """
    ranks = distributed.gather_objects(_describe(error.loss, batches))
    contents = state.contents(random_state=random_state)
    path = stopped_path(output_dir, state)
    where = f"The state before this step is in {path}"
    if distributed.is_main():
        stopped = {"problem": error.problem, "lr": lr, "ranks": ranks}
        try:
            write_checkpoint(path, {**contents, "stopped": stopped})
        except UserError as problem:
            where = f"The state before this step is lost ({problem})"
    mends = "Lower SOLVER.BASE_LR, warm up longer, "
    if error.is_of_gradient:
        # Averaged over the ranks, it is of nobody's videos.
        videos = ""
        mends += "or look at the videos of all ranks in its entry `stopped`"
    else:
        # NaN is neither above nor below anything, but different from itself.
        worst = max(ranks, key=lambda rank: (rank["loss"] != rank["loss"], rank["loss"]))
        videos = f", with the videos {', '.join(worst['video_name'])}"
        mends += "set SOLVER.CLIP_GRAD_L2NORM, or look at these files"
    return UserError(
        f"Training stopped because {error.problem} in epoch {state.finished_epochs + 1} "
        f"at step {state.finished_steps + 1} and learning rate {lr:g}{videos}. "
        f"{distributed.broadcast_object(where)}. {mends}, and start again to go on from the last "
        "checkpoint."
    )


def _describe(loss: float, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the loss of a rank and what its clips were, in types that ``weights_only`` accepts."""
    described: dict[str, Any] = {"loss": loss}
    keys = ("video_name", "video_index", "clip_index", "label")
    for key in (key for key in keys if key in batches[0]):  # images with objects have no labels
        described[key] = [
            value if isinstance(value, str) else int(value)
            for batch in batches
            for value in batch[key]
        ]
    return described
