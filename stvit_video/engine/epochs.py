"""One training epoch, timed and logged; and what a run leaves behind when its loss stops it."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stvit_video.data.loader import VideoLoader
from stvit_video.engine.checkpoint import write_checkpoint
from stvit_video.engine.metrics import Recorder, StepResult
from stvit_video.engine.schedule import Schedule
from stvit_video.engine.state import BadLossError, TrainingState, capture_random_state
from stvit_video.engine.step import Batch, TrainingStep
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.logging import get_logger, progress


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


# From this share of the time on, waiting for data is worth a line of advice.
_DATA_BOUND_SHARE = 0.3

_log = get_logger(__name__)


class EpochRunner:
    """Run epochs of training steps over a loader, from wherever the state stands.

    Args:
        state: what is trained.
        step: makes one step of the state's optimizer from its batches.
        loader: yields the batches of an epoch; its ``batch_sampler`` has ``set_epoch``.
        schedule: fractional epoch -> learning rate.
        recorder: writes the measurements.
        output_dir: gets what a bad loss leaves behind.
        passes: batches of one step.
        log_period: steps between two ``train_iter`` lines.
    """

    def __init__(
        self,
        state: TrainingState,
        step: TrainingStep,
        loader: VideoLoader,
        *,
        schedule: Schedule,
        recorder: Recorder,
        output_dir: str | Path,
        passes: int = 1,
        log_period: int = 10,
    ) -> None:
        self.state = state
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.recorder = recorder
        self.output_dir = output_dir
        self.passes = passes
        self.log_period = log_period
        self.has_advised = False

    def __call__(self, *, after_step: Callable[[], bool]) -> bool:
        """Train to the end of the epoch in which the state stands.

        Batches at the end that do not fill a step are left out, as are clips that do not fill a
        batch: so accumulating gradients sees the same clips as a batch that is larger.

        Args:
            after_step: called inside the epoch, when a step is finished and counted in the state;
                says on all ranks alike whether to stop there.

        Returns:
            Whether the epoch is finished.

        Raises:
            UserError: the loss is not one to go on from, or nothing can be read.
        """
        state, meter = self.state, self.state.meter
        epoch, steps = state.finished_epochs, meter.steps_per_epoch
        self.step.model.train()
        first = state.finished_steps
        sampler = self.loader.batch_sampler
        sampler.set_epoch(epoch, first_batch=first * self.passes)  # type: ignore[attr-defined]
        title = f"epoch {epoch + 1}/{meter.max_epoch}"
        bar = progress(range(first, steps), total=steps - first, description=title)
        began = time.perf_counter()
        batches = iter(self.loader)
        for index in bar:
            lr = self.schedule(epoch + index / steps)
            passes = list(islice(batches, self.passes))
            if len(passes) < self.passes:
                raise UserError(
                    f"epoch {epoch + 1} ended after {index} of {steps} steps, as whole batches "
                    f"could not be read, nor others in their place ({self.output_dir}/"
                    "quarantine.csv says why): mend the files or take them out of the list"
                )
            loaded = time.perf_counter()
            result = self._step(passes, lr=lr)
            ended = time.perf_counter()
            meter.add(result, data_seconds=loaded - began, net_seconds=ended - loaded)
            bar.set_postfix(self._postfix(result, lr, epoch=epoch, index=index))
            if (index + 1) % self.log_period == 0:
                line = meter.iteration_line(epoch=epoch, step=index, lr=lr)
                self.recorder.train_iteration(line, step=epoch * steps + index + 1)
            state.finished_steps = index + 1
            if index + 1 < steps and after_step():
                return False
            # What a checkpoint took is no time of waiting for data.
            began = time.perf_counter()
        self._advise(meter.epoch.data_share)
        self.recorder.line(meter.epoch_line(epoch=epoch, lr=lr))
        state.finished_epochs, state.finished_steps = epoch + 1, 0
        return True

    def _step(self, batches: list[Batch], *, lr: float) -> StepResult:
        state = self.state
        before = capture_random_state(state.device)
        try:
            result = self.step(batches, lr=lr)
        except BadLossError as error:
            raise stop(
                error, state, batches, lr=lr, random_state=before, output_dir=self.output_dir
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

    def _advise(self, data_share: float) -> None:
        if data_share > _DATA_BOUND_SHARE and not self.has_advised:
            self.has_advised = True
            _log.info(
                "%.0f%% of this epoch was spent waiting for data: more DATA_LOADER.NUM_WORKERS, "
                "more CPU cores or smaller video files would make training faster",
                100 * data_share,
            )
