"""Running sums of a training run and the json_stats lines made of them."""

import datetime
from dataclasses import asdict, dataclass, field

import psutil
import torch

from stvit_video.engine.step import StepResult
from stvit_video.runtime import distributed


@dataclass
class Totals:
    """Sums over steps: what was measured, and the seconds spent waiting for data and computing."""

    steps: int = 0
    loss: float = 0.0
    clips: int = 0
    data_seconds: float = 0.0
    net_seconds: float = 0.0
    measured: dict[str, float] = field(default_factory=dict)

    def add(self, result: StepResult, *, data_seconds: float, net_seconds: float) -> None:
        """Add one step of this rank."""
        self.steps += 1
        self.loss += result.loss
        self.clips += result.clips
        for name, value in result.measured.items():
            self.measured[name] = self.measured.get(name, 0.0) + value
        self.data_seconds += data_seconds
        self.net_seconds += net_seconds

    @property
    def seconds_per_step(self) -> float:
        """Wall-clock seconds of a step on this rank."""
        return (self.data_seconds + self.net_seconds) / max(1, self.steps)

    @property
    def data_share(self) -> float:
        """Share of the time that was spent waiting for data, between 0 and 1."""
        return self.data_seconds / max(1e-9, self.data_seconds + self.net_seconds)

    def mean_over_ranks(self) -> dict[str, float]:
        """Return means of a step and of its clips over all ranks; all must call this."""
        own = (self.steps, self.loss, self.clips, self.data_seconds, self.net_seconds)
        steps, loss, clips, data, net, *sums = distributed.all_reduce_sum(
            [*own, *self.measured.values()]
        )
        measured = {name: total / clips for name, total in zip(self.measured, sums, strict=True)}
        return {
            "loss": loss / steps,
            **measured,
            "dt": (data + net) / steps,
            "dt_data": data / steps,
            "dt_net": net / steps,
        }


class TrainMeter:
    """Totals since the last line of the log and since the epoch began.

    Args:
        max_epoch: epochs of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        clips_per_step: of all ranks together.
        device: whose memory is reported.
    """

    def __init__(
        self, *, max_epoch: int, steps_per_epoch: int, clips_per_step: int, device: torch.device
    ) -> None:
        self.max_epoch = max_epoch
        self.steps_per_epoch = steps_per_epoch
        self.clips_per_step = clips_per_step
        self.device = device
        self.window = Totals()
        self.epoch = Totals()

    @property
    def epoch_plan(self) -> dict[str, int]:
        """What an epoch consists of."""
        return {"steps": self.steps_per_epoch, "clips a step": self.clips_per_step}

    def state_dict(self) -> dict[str, dict]:
        """Return the sums of this rank."""
        return {"window": asdict(self.window), "epoch": asdict(self.epoch)}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Go on from the sums of :meth:`state_dict`."""
        self.window, self.epoch = Totals(**state["window"]), Totals(**state["epoch"])

    def add(self, result: StepResult, *, data_seconds: float, net_seconds: float) -> None:
        """Add one step of this rank."""
        for totals in (self.window, self.epoch):
            totals.add(result, data_seconds=data_seconds, net_seconds=net_seconds)

    def iteration_line(self, *, epoch: int, step: int, lr: float) -> dict:
        """Return the ``train_iter`` line of the steps since the last one; all ranks must call this.

        Args:
            epoch: index of the epoch, from 0.
            step: index of the last step in the epoch, from 0.
            lr: the schedule's learning rate at that step.
        """
        line = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "iter": f"{step + 1}/{self.steps_per_epoch}",
            "lr": lr,
            "eta": self.eta(epoch=epoch, step=step),
            **self.window.mean_over_ranks(),
            **memory(self.device),
        }
        self.window = Totals()
        return line

    def epoch_line(self, *, epoch: int, lr: float) -> dict:
        """Return the ``train_epoch`` line and begin a new epoch; all ranks must call this."""
        line = {
            "_type": "train_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "lr": lr,
            "eta": self.eta(epoch=epoch, step=self.steps_per_epoch - 1),
            **self.epoch.mean_over_ranks(),
            **memory(self.device),
        }
        self.window, self.epoch = Totals(), Totals()
        return line

    def eta(self, *, epoch: int, step: int) -> str:
        """Return the time left in the run at this epoch's speed, as h:mm:ss."""
        left = self.max_epoch * self.steps_per_epoch - (epoch * self.steps_per_epoch + step + 1)
        return duration(left * self.epoch.seconds_per_step)


def duration(seconds: float) -> str:
    """Write a number of seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=int(seconds)))


def memory(device: torch.device) -> dict[str, str]:
    """Return the peak memory of a GPU, or the resident memory of a process on the CPU."""
    if device.type == "cuda":
        return {"gpu_mem": f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}G"}
    return {"rss": f"{psutil.Process().memory_info().rss / 2**30:.2f}G"}
