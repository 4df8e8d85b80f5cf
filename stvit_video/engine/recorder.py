"""Where a training run's measurements go: the log, json_stats.log and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stvit_video.runtime import distributed
from stvit_video.runtime.logging import log_json_stats

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
