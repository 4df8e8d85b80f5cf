"""One training epoch: steps over a loader, timed, logged and shown as a progress bar."""

import time

from stvit_video.data.loader import VideoLoader
from stvit_video.engine.meters import TrainMeter
from stvit_video.engine.recorder import Recorder
from stvit_video.engine.schedule import Schedule
from stvit_video.engine.step import StepResult, TrainingStep
from stvit_video.runtime.logging import get_logger, progress

# From this share of the time on, waiting for data is worth a line of advice.
_DATA_BOUND_SHARE = 0.3

_log = get_logger(__name__)


class EpochRunner:
    """Run epochs of training steps over a loader.

    Args:
        step: makes one step of the optimizer from its batches.
        loader: yields the batches of an epoch; its ``batch_sampler`` has ``set_epoch``.
        schedule: fractional epoch -> learning rate.
        meter: collects the measurements.
        recorder: writes them.
        passes: batches of one step.
        log_period: steps between two ``train_iter`` lines.
    """

    def __init__(
        self,
        step: TrainingStep,
        loader: VideoLoader,
        *,
        schedule: Schedule,
        meter: TrainMeter,
        recorder: Recorder,
        passes: int = 1,
        log_period: int = 10,
    ) -> None:
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.meter = meter
        self.recorder = recorder
        self.passes = passes
        self.log_period = log_period
        self.has_advised = False

    def __call__(self, epoch: int) -> None:
        """Train for the epoch with this index, from 0.

        Batches at the end that do not fill a step are left out, as are clips that do not fill a
        batch: so accumulating gradients sees the same clips as a batch that is larger.
        """
        meter = self.meter
        steps = meter.steps_per_epoch
        self.step.model.train()
        self.loader.batch_sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        title = f"epoch {epoch + 1}/{meter.max_epoch}"
        bar = progress(range(steps), total=steps, description=title)
        began = time.perf_counter()
        batches = iter(self.loader)
        for index in bar:
            lr = self.schedule(epoch + index / steps)
            passes = [next(batches) for _ in range(self.passes)]
            loaded = time.perf_counter()
            result = self.step(passes, lr=lr)
            ended = time.perf_counter()
            meter.add(result, data_seconds=loaded - began, net_seconds=ended - loaded)
            began = ended
            bar.set_postfix(self._postfix(result, lr, epoch=epoch, index=index))
            if (index + 1) % self.log_period == 0:
                line = meter.iteration_line(epoch=epoch, step=index, lr=lr)
                self.recorder.train_iteration(line, step=epoch * steps + index + 1)
        self.loader.quarantine.share()
        self._advise(meter.epoch.data_share)
        self.recorder.line(meter.epoch_line(epoch=epoch, lr=lr))

    def _postfix(self, result: StepResult, lr: float, *, epoch: int, index: int) -> dict[str, str]:
        data_share = self.meter.epoch.data_share
        return {
            "loss": f"{result.loss:.3f}",
            "lr": f"{lr:.2e}",
            "eta": self.meter.eta(epoch=epoch, step=index),
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
