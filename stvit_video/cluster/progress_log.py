"""What a run says of its progress in its json_stats lines."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MARK = "json_stats: "
# Enough for the last lines, whatever the length of the log.
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: "3/30", or "" before the first line.
        iteration: "20/3750", or "" after an epoch's end.
        loss: of the last training line; None before it.
    """

    epoch: str = ""
    iteration: str = ""
    loss: float | None = None


def read_stats(line: str) -> dict[str, Any] | None:
    """Return what a line of a log says in ``json_stats: {...}``, or None for other lines."""
    _, mark, text = line.partition(_MARK)
    if not mark:
        return None
    try:
        return json.loads(text)
    except ValueError:  # cut off in the middle
        return None


def read_progress(output_dir: Path, *, since: float) -> Progress:
    """Return how far the run in ``output_dir`` is by the end of its json_stats.log.

    Args:
        output_dir: of the run.
        since: a log that was last written before (seconds since 1970) is of an earlier run.
    """
    path = output_dir / "json_stats.log"
    if not path.is_file() or path.stat().st_mtime < since:
        return Progress()
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        stats = read_stats(line)
        if stats and stats.get("_type") in ("train_iter", "train_epoch"):
            return Progress(stats["epoch"], stats.get("iter", ""), stats["loss"])
    return Progress()
