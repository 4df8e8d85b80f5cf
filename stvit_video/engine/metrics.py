"""Compute training metrics, and write them to json_stats.log and TensorBoard."""

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

# Reported top-k accuracies. With fewer than 5 classes, the second k is the number of classes.
TOP_KS = (1, 5)

# PySlowFast's names of the curves that are not named after the keys of the statistics.
_CURVE_NAMES = {"top1_err": "Top1_err", "top5_err": "Top5_err"}
# Numbers in the statistics that get no curve, as they do not measure the model.
_NO_CURVES = ("dt", "dt_data", "dt_net", "num_videos")


def topk_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the top-1 and top-5 correct predictions.

    Args:
        scores: [B, classes], higher is likelier.
        labels: int64 [B], or soft targets [B, classes]. A prediction of a mixed clip is scored as
            PySlowFast does, see :func:`_merge_mixed_classes`.

    Returns:
        Two counts on the device of ``scores``, so that counting does not synchronize with it.
    """
    if labels.is_floating_point():
        scores, labels = _merge_mixed_classes(scores, labels)
    best = scores.topk(min(max(TOP_KS), scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].sum() for k in TOP_KS])


def _merge_mixed_classes(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the two classes of mixed clips into one, as PySlowFast does.

    Where a target mixes two classes, the class with the larger share gets the sum of both scores,
    and the other one gets 0. Training accuracy on mixed clips is therefore only a rough figure
    and not comparable with that of unmixed clips.

    Returns:
        The merged scores, and the labels with the larger share.
    """
    shares, classes = targets.topk(2, dim=1)
    first, second = classes.split(1, dim=1)
    # Label smoothing alone gives all classes but one the same share.
    is_mixed = shares[:, 1:] > targets.amin(dim=1, keepdim=True)
    moved = scores.gather(1, second) * is_mixed
    return scores.scatter_add(1, first, moved).scatter_add(1, second, -moved), first[:, 0]


def error_percent(correct: float, total: float) -> float:
    """Return the error rate in percent."""
    return 100.0 * (1.0 - correct / total)


class StepResult(NamedTuple):
    """Measurements of one training step on this rank.

    Attributes:
        loss: mean over the step's clips (or images).
        clips: number of clips (or images).
        measured: further measurements of the objective, summed over the clips.
    """

    loss: float
    clips: int
    measured: dict[str, float]


@dataclass
class Totals:
    """Sums over training steps: measurements, and seconds of waiting for data and of computing."""

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
        """Mean wall-clock seconds per step on this rank."""
        return (self.data_seconds + self.net_seconds) / max(1, self.steps)

    @property
    def data_share(self) -> float:
        """Fraction of the time spent waiting for data."""
        return self.data_seconds / max(1e-9, self.data_seconds + self.net_seconds)

    def mean_over_ranks(self) -> dict[str, float]:
        """Return the means per step and per clip over all ranks; every rank must call this."""
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
    """Accumulate training statistics over the log period and over the epoch.

    Args:
        max_epoch: number of epochs of the run.
        steps_per_epoch: optimizer steps per epoch.
        clips_per_step: clips per optimizer step over all ranks.
        device: device whose memory is reported.
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
        """Steps per epoch and clips per step, which must not change inside an epoch."""
        # The keys are stored in checkpoints.
        return {"steps": self.steps_per_epoch, "clips a step": self.clips_per_step}

    def state_dict(self) -> dict[str, dict]:
        """Return the totals of this rank."""
        return {"window": asdict(self.window), "epoch": asdict(self.epoch)}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Restore the totals that :meth:`state_dict` returned."""
        self.window, self.epoch = Totals(**state["window"]), Totals(**state["epoch"])

    def add(self, result: StepResult, *, data_seconds: float, net_seconds: float) -> None:
        """Add one step of this rank."""
        for totals in (self.window, self.epoch):
            totals.add(result, data_seconds=data_seconds, net_seconds=net_seconds)

    def iter_stats(self, *, epoch: int, step: int, lr: float) -> dict:
        """Return the ``train_iter`` statistics since the last call; every rank must call this.

        Args:
            epoch: index of the epoch, from 0.
            step: index of the last step in the epoch, from 0.
            lr: scheduled learning rate of that step.
        """
        stats = {
            "_type": "train_iter",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "iter": f"{step + 1}/{self.steps_per_epoch}",
            "lr": lr,
            "eta": self.eta(epoch=epoch, step=step),
            **self.window.mean_over_ranks(),
            **memory_stats(self.device),
        }
        self.window = Totals()
        return stats

    def epoch_stats(self, *, epoch: int, lr: float) -> dict:
        """Return the ``train_epoch`` statistics and reset; every rank must call this."""
        stats = {
            "_type": "train_epoch",
            "epoch": f"{epoch + 1}/{self.max_epoch}",
            "lr": lr,
            "eta": self.eta(epoch=epoch, step=self.steps_per_epoch - 1),
            **self.epoch.mean_over_ranks(),
            **memory_stats(self.device),
        }
        self.window, self.epoch = Totals(), Totals()
        return stats

    def eta(self, *, epoch: int, step: int) -> str:
        """Return the remaining time of the run at the speed of this epoch, as h:mm:ss."""
        remaining = (self.max_epoch - epoch) * self.steps_per_epoch - (step + 1)
        return format_duration(remaining * self.epoch.seconds_per_step)


def format_duration(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=int(seconds)))


def memory_stats(device: torch.device) -> dict[str, str]:
    """Return the peak memory of a GPU, or the resident memory of this process on the CPU."""
    if device.type == "cuda":
        return {"gpu_mem": f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}G"}
    return {"rss": f"{psutil.Process().memory_info().rss / 2**30:.2f}G"}


class StatsWriter:
    """Write statistics to json_stats.log and TensorBoard, on the main rank only.

    Args:
        output_dir: OUTPUT_DIR of the run, which gets json_stats.log.
        tensorboard_dir: folder of TensorBoard's event files; None disables TensorBoard.
        first_step: step at which a resumed run continues its curves.
    """

    def __init__(
        self, output_dir: str | Path, *, tensorboard_dir: Path | None = None, first_step: int = 0
    ) -> None:
        self.output_dir = output_dir
        self.writer: SummaryWriter | None = None
        if tensorboard_dir is not None and distributed.is_main():
            # Imported here because the import takes seconds, which only this rank needs to spend.
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(tensorboard_dir), purge_step=first_step or None)

    def write(self, stats: Mapping[str, object]) -> None:
        """Write one line to json_stats.log."""
        log_json_stats(stats, output_dir=self.output_dir)

    def write_train(self, stats: Mapping[str, object], *, step: int) -> None:
        """Write ``train_iter`` statistics and their points of the training curves at ``step``."""
        self.write(stats)
        self._add_scalars("Train", stats, step)

    def write_val(self, stats: Mapping[str, object], *, step: int) -> None:
        """Write ``val_epoch`` statistics and their points of the validation curves at ``step``."""
        self.write(stats)
        self._add_scalars("Val", stats, step)

    def close(self) -> None:
        """Flush and close the event files."""
        if self.writer is not None:
            self.writer.close()

    def _add_scalars(self, split: str, stats: Mapping[str, object], step: int) -> None:
        if self.writer is None:
            return
        for key, value in stats.items():
            has_curve = key not in _NO_CURVES and not key.startswith("min_")
            if has_curve and isinstance(value, int | float):
                self.writer.add_scalar(f"{split}/{_CURVE_NAMES.get(key, key)}", value, step)
