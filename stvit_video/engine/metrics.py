"""Measure a training run: top-k accuracy, running sums, the log, json_stats.log and TensorBoard."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import torch
from torch import Tensor

from stvit_video.runtime import distributed
from stvit_video.runtime.logging import log_json_stats

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# The ranks that are reported; with fewer classes than 5, the second is the number of classes.
TOP_KS = (1, 5)


def topk_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the rows whose label is the first, and among the first five, of their scores.

    Args:
        scores: [B, classes], the higher the likelier.
        labels: int64 [B]; or soft targets [B, classes], as :func:`_merge_mixed` takes them.

    Returns:
        Two counts, on the device of ``scores``, so that no step waits for them.
    """
    if labels.is_floating_point():
        scores, labels = _merge_mixed(scores, labels)
    best = scores.topk(min(max(TOP_KS), scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].sum() for k in TOP_KS])


def _merge_mixed(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Take the two classes of a mixed clip for one, as PySlowFast does.

    Where a target mixes two classes, the score of the one with the larger share becomes the sum of
    both, and the other's 0. So the accuracy of training on mixed clips is a rough figure, and says
    nothing beside one without mixing.

    Returns:
        the scores, and the label of the larger share.
    """
    shares, classes = targets.topk(2, dim=1)
    first, second = classes.split(1, dim=1)
    # Smoothing alone leaves all classes but one the same share.
    is_mixed = shares[:, 1:] > targets.amin(dim=1, keepdim=True)
    moved = scores.gather(1, second) * is_mixed
    return scores.scatter_add(1, first, moved).scatter_add(1, second, -moved), first[:, 0]


def error_percent(correct: float, total: float) -> float:
    """Return the share that is wrong, in percent."""
    return 100.0 * (1.0 - correct / total)


class StepResult(NamedTuple):
    """What one step of this rank measured."""

    # Mean over the step's clips (or images).
    loss: float
    # Their number.
    clips: int
    # What else the objective measures, summed over them.
    measured: dict[str, float]


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


# PySlowFast's names of some curves; others have the names of their keys.
_CURVES = {"top1_err": "Top1_err", "top5_err": "Top5_err"}
# What is a number in a line, but no measurement of the model.
_NO_CURVES = ("dt", "dt_data", "dt_net", "num_videos")


class Recorder:
    """Write lines of statistics; only the main rank's recorder writes anything.

    Args:
        output_dir: of the run, where json_stats.log goes.
        tensorboard_dir: folder of TensorBoard's event files; None: no TensorBoard.
        first_step: curves of an interrupted run are continued from this step on.
    """

    def __init__(
        self, output_dir: str | Path, *, tensorboard_dir: Path | None = None, first_step: int = 0
    ) -> None:
        self.output_dir = output_dir
        self.writer: SummaryWriter | None = None
        if tensorboard_dir is not None and distributed.is_main():
            # Imported here because it takes seconds, on ranks that never need it too.
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(tensorboard_dir), purge_step=first_step or None)

    def line(self, line: Mapping[str, object]) -> None:
        """Write one json_stats line."""
        log_json_stats(line, output_dir=self.output_dir)

    def train_iteration(self, line: Mapping[str, object], *, step: int) -> None:
        """Write a ``train_iter`` line and its points of the training curves at ``step``."""
        self.line(line)
        self._draw("Train", line, step)

    def validation(self, line: Mapping[str, object], *, step: int) -> None:
        """Write a ``val_epoch`` line and its points of the validation curves at ``step``."""
        self.line(line)
        self._draw("Val", line, step)

    def close(self) -> None:
        """Flush the event files."""
        if self.writer is not None:
            self.writer.close()

    def _draw(self, split: str, line: Mapping[str, object], step: int) -> None:
        if self.writer is None:
            return
        for key, value in line.items():
            is_number = isinstance(value, int | float) and key not in _NO_CURVES
            if is_number and not key.startswith("min_"):
                self.writer.add_scalar(f"{split}/{_CURVES.get(key, key)}", value, step)
