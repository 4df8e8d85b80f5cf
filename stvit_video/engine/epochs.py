"""One training epoch: steps over a loader, timed, logged and shown as a progress bar."""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from stvit_video.data.loader import VideoLoader
from stvit_video.engine.loss_guard import BadLossError
from stvit_video.engine.objective import Batch
from stvit_video.engine.random_state import capture_random_state
from stvit_video.engine.recorder import Recorder
from stvit_video.engine.schedule import Schedule
from stvit_video.engine.state import TrainingState
from stvit_video.engine.step import StepResult, TrainingStep
from stvit_video.engine.stopped import stop
from stvit_video.errors import UserError
from stvit_video.runtime.logging import get_logger, progress

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
