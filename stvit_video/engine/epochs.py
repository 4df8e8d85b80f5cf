"""Train one epoch at a time, and save the state when a bad loss stops the run."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stvit_video.data.loader import VideoLoader
from stvit_video.engine.checkpoint import write_checkpoint
from stvit_video.engine.metrics import StatsWriter, StepResult
from stvit_video.engine.schedule import Schedule
from stvit_video.engine.state import BadLossError, TrainingState, capture_random_state
from stvit_video.engine.step import Batch, TrainingStep
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger, progress

# Share of the time spent waiting for data above which the log recommends faster loading.
_DATA_BOUND_SHARE = 0.3

_log = get_logger(__name__)


class EpochRunner:
    """Run training epochs, starting from the position of the state.

    Args:
        state: training state, updated in place.
        step: makes one optimizer step from its batches.
        loader: yields the batches of an epoch; its ``batch_sampler`` has ``set_epoch``.
        schedule: fractional epoch -> learning rate.
        stats_writer: writes the training statistics.
        output_dir: OUTPUT_DIR of the run, where a bad loss saves its state.
        accumulate_steps: batches per optimizer step.
        log_period: steps between two ``train_iter`` lines.
    """

    def __init__(
        self,
        state: TrainingState,
        step: TrainingStep,
        loader: VideoLoader,
        *,
        schedule: Schedule,
        stats_writer: StatsWriter,
        output_dir: str | Path,
        accumulate_steps: int = 1,
        log_period: int = 10,
    ) -> None:
        self.state = state
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.stats_writer = stats_writer
        self.output_dir = output_dir
        self.accumulate_steps = accumulate_steps
        self.log_period = log_period
        self.has_logged_data_bound = False

    def __call__(self, *, after_step: Callable[[], bool]) -> bool:
        """Train to the end of the current epoch.

        The last batches are dropped if they do not fill a step, as are the last clips if they do
        not fill a batch. Gradient accumulation thus sees the same clips as a larger batch.

        Args:
            after_step: called after every step but the last of the epoch, once the state counts
                it; returns, with the same value on all ranks, whether to stop.

        Returns:
            Whether the epoch is finished.

        Raises:
            UserError: training must stop because of its loss, or no batch can be read.
        """
        state, meter = self.state, self.state.meter
        epoch, steps = state.finished_epochs, meter.steps_per_epoch
        self.step.model.train()
        first_step = state.finished_steps
        first_batch = first_step * self.accumulate_steps
        sampler = self.loader.batch_sampler
        sampler.set_epoch(epoch, first_batch=first_batch)  # type: ignore[attr-defined]
        progress_bar = progress(
            range(first_step, steps),
            total=steps - first_step,
            description=f"epoch {epoch + 1}/{meter.max_epoch}",
        )
        start = time.perf_counter()
        loader_iter = iter(self.loader)
        for index in progress_bar:
            lr = self.schedule(epoch + index / steps)
            batches = list(islice(loader_iter, self.accumulate_steps))
            if len(batches) < self.accumulate_steps:
                raise UserError(
                    f"Epoch {epoch + 1} ended after {index} of {steps} steps, because whole "
                    f"batches could not be read or replaced (see {self.output_dir}/quarantine.csv);"
                    " fix the files or remove them from the list."
                )
            loaded = time.perf_counter()
            result = self._step(batches, lr=lr)
            end = time.perf_counter()
            meter.add(result, data_seconds=loaded - start, net_seconds=end - loaded)
            progress_bar.set_postfix(self._postfix(result, lr, epoch=epoch, index=index))
            if (index + 1) % self.log_period == 0:
                stats = meter.iter_stats(epoch=epoch, step=index, lr=lr)
                self.stats_writer.write_train(stats, step=epoch * steps + index + 1)
            state.finished_steps = index + 1
            if index + 1 < steps and after_step():
                return False
            # The time of after_step, which may write a checkpoint, is not counted as data time.
            start = time.perf_counter()
        self._log_data_bound(meter.epoch.data_share)
        self.stats_writer.write(meter.epoch_stats(epoch=epoch, lr=lr))
        state.finished_epochs, state.finished_steps = epoch + 1, 0
        return True

    def _step(self, batches: list[Batch], *, lr: float) -> StepResult:
        state = self.state
        random_state = capture_random_state(state.device)
        try:
            result = self.step(batches, lr=lr)
        except BadLossError as error:
            raise save_bad_step(
                error, state, batches, lr=lr, random_state=random_state, output_dir=self.output_dir
            ) from None
        if state.average is not None:
            state.average.update()
        return result

    def _postfix(self, result: StepResult, lr: float, *, epoch: int, index: int) -> dict[str, str]:
        data_share = self.state.meter.epoch.data_share
        return {
            "loss": f"{result.loss:.3f}",
            "lr": f"{lr:.2e}",
            "eta": self.state.meter.eta(epoch=epoch, step=index),
            "data": f"{data_share:.0%}",
            "net": f"{1 - data_share:.0%}",
        }

    def _log_data_bound(self, data_share: float) -> None:
        if data_share > _DATA_BOUND_SHARE and not self.has_logged_data_bound:
            self.has_logged_data_bound = True
            _log.info(
                "%.0f%% of this epoch was spent waiting for data; more DATA_LOADER.NUM_WORKERS, "
                "more CPU cores or smaller video files would make training faster",
                100 * data_share,
            )


def save_bad_step(
    error: BadLossError,
    state: TrainingState,
    batches: Sequence[Mapping[str, Any]],
    *,
    lr: float,
    random_state: dict,
    output_dir: str | Path,
) -> UserError:
    """Save the state before a step with a bad loss and return the error; all ranks must call this.

    The file is a full checkpoint of the moment before the step. A run that resumes from it
    (TRAIN.CHECKPOINT_FILE_PATH) repeats the step with the same batch and random numbers. Its entry
    ``stopped`` holds the loss and the videos of each rank.

    Args:
        error: raised by the step, which has not changed the weights.
        state: training state at the step.
        batches: the step's batches on this rank.
        lr: learning rate of the step.
        random_state: random state of this rank before the step.
        output_dir: OUTPUT_DIR of the run.
    """
    ranks = distributed.gather_objects(_describe_clips(error.loss, batches))
    contents = state.state_dict(random_state=random_state)
    # Not in the folder of the checkpoints, because a run must not resume from it automatically.
    path = (
        Path(output_dir)
        / "stopped"
        / (f"stopped_epoch_{state.finished_epochs:05d}_step_{state.finished_steps:06d}.pyth")
    )
    saved = f"The state before this step is in {path}"
    if distributed.is_main():
        stopped = {"problem": error.problem, "lr": lr, "ranks": ranks}
        try:
            write_checkpoint(path, {**contents, "stopped": stopped})
        except UserError as write_error:
            saved = f"The state before this step could not be saved ({write_error})"
    advice = "Lower SOLVER.BASE_LR, warm up longer, "
    if error.from_gradient:
        # The gradient is averaged over the ranks, so the videos of any rank may be the cause.
        videos = ""
        advice += "or inspect the videos of all ranks in its entry `stopped`"
    else:
        # A NaN loss, which differs from itself, is worse than any other.
        worst = max(ranks, key=lambda rank: (rank["loss"] != rank["loss"], rank["loss"]))
        videos = f", with the videos {', '.join(worst['video_name'])}"
        advice += "set SOLVER.CLIP_GRAD_L2NORM, or inspect these videos"
    return UserError(
        f"Training stopped because {error.problem} in epoch {state.finished_epochs + 1} "
        f"at step {state.finished_steps + 1} and learning rate {lr:g}{videos}. "
        f"{distributed.broadcast_object(saved)}. {advice}, and start again to resume from the last "
        "checkpoint."
    )


def _describe_clips(loss: float, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the loss and the clips of a rank, in types that ``weights_only`` loading accepts."""
    described: dict[str, Any] = {"loss": loss}
    keys = ("video_name", "video_index", "clip_index", "label")
    for key in (key for key in keys if key in batches[0]):  # detection batches have no labels
        described[key] = [
            value if isinstance(value, str) else int(value)
            for batch in batches
            for value in batch[key]
        ]
    return described
