"""Measure the rows of the paper's tables, and compare them with the published values."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from stvit_video.config import load_config
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops, count_parameters
from stvit_video.paper.rows import PaperRow

Line = Sequence[str]

_IMAGE_SHAPE, _VIDEO_SHAPE, _DETECTION_SHAPE = (3, 224, 224), (3, 32, 224, 224), (3, 800, 1344)
_HEADER = (
    "row",
    "M parameters",
    "GFLOPs, paper",
    "here",
    "difference",
    "speed-up, paper",
    "here",
    "top-1 or AP, paper",
    "config",
)
# The left-aligned columns: the row and its config.
_TEXT_COLUMNS = (0, len(_HEADER) - 1)


@dataclass
class MeasuredRow:
    """Row of the paper and the values measured here.

    Attributes:
        paper: the row.
        parameters: number of parameters of the model.
        gflops: multiply-accumulates for one input, in units of 10^9.
        speedup: speed relative to the model of the base; None if not measured.
    """

    paper: PaperRow
    parameters: int
    gflops: float
    speedup: float | None = None

    @property
    def difference(self) -> float | None:
        """Relative difference to the published GFLOPs beyond their rounding; None without any."""
        if not self.paper.gflops:
            return None
        printed = float(self.paper.gflops)
        rounding = 0.5 * 10.0 ** -len(self.paper.gflops.partition(".")[2])
        excess = max(0.0, abs(self.gflops - printed) - rounding)
        return excess / printed * (1 if self.gflops > printed else -1)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the GFLOPs agree with the published ones, if there are any."""
        below, above = self.paper.tolerance
        return self.difference is None or -below <= self.difference <= above


def build_row(row: PaperRow, *, configs: Path) -> nn.Module:
    """Build the model of a row, in evaluation mode.

    Args:
        row: row of the model.
        configs: the folder ``configs/``.
    """
    return build_model(load_config(configs / row.config, row.overrides)).eval()


def measure(row: PaperRow, *, configs: Path) -> MeasuredRow:
    """Count the parameters and FLOPs of a row's model."""
    model = build_row(row, configs=configs)
    flops = count_flops(model, make_input(row, batch=1))
    return MeasuredRow(row, count_parameters(model), flops / 1e9)


def make_input(row: PaperRow, *, batch: int) -> torch.Tensor:
    """Return a batch of zeros with the input size of the paper."""
    shape: tuple[int, ...] = _IMAGE_SHAPE
    if row.is_video:
        shape = _VIDEO_SHAPE
    elif row.is_detector:
        shape = _DETECTION_SHAPE
    return torch.zeros(batch, *shape)


def as_json(rows: Iterable[MeasuredRow]) -> str:
    """Format rows as a JSON list."""
    entries = [
        {
            **asdict(row.paper),
            "measured": {
                "parameters": row.parameters,
                "gflops": round(row.gflops, 4),
                "speedup": row.speedup,
                "within_tolerance": row.is_within_tolerance,
            },
        }
        for row in rows
    ]
    return json.dumps(entries, indent=2)


def as_text(rows: Sequence[MeasuredRow]) -> str:
    """Format rows as a table for a terminal."""
    return text_table(_HEADER, _cells(rows), left=_TEXT_COLUMNS)


def as_markdown(rows: Sequence[MeasuredRow]) -> str:
    """Format rows as a Markdown table."""
    return markdown_table(_HEADER, _cells(rows), left=_TEXT_COLUMNS)


def _cells(rows: Sequence[MeasuredRow]) -> list[tuple[str, ...]]:
    throughput = {row.paper.name: row.paper.throughput for row in rows}
    lines: list[tuple[str, ...]] = []
    for row in rows:
        paper = row.paper
        base = throughput.get(paper.base)
        ratio = None if paper.is_base or not base else (paper.throughput or 0) / base or None
        mark = "" if row.is_within_tolerance else " (!)"
        lines.append(
            (
                f"Table {paper.table}: {paper.name}",
                f"{row.parameters / 1e6:.1f}",
                paper.gflops or "-",
                f"{row.gflops:.3g}" if row.gflops < 1 else f"{row.gflops:.2f}",
                f"{row.gflops / float(paper.gflops) - 1:+.1%}{mark}" if paper.gflops else "-",
                "-" if ratio is None else f"{ratio:.2f}",
                "-" if row.speedup is None else f"{row.speedup:.2f}",
                str(paper.top1),
                " ".join([paper.config, *_format_overrides(paper.overrides)]),
            )
        )
    return lines


def _format_overrides(overrides: Sequence[str]) -> list[str]:
    return [
        f"{key} '{value}'" if " " in value else f"{key} {value}"
        for key, value in zip(overrides[::2], overrides[1::2], strict=True)
    ]


def text_table(header: Line, lines: Sequence[Line], *, left: Collection[int] = (0,)) -> str:
    """Format a table for a terminal.

    Args:
        header: names of the columns.
        lines: cells, as many in each line as in the header.
        left: left-aligned columns; the others are right-aligned.
    """
    cells = [header, *lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def markdown_table(header: Line, lines: Sequence[Line], *, left: Collection[int] = (0,)) -> str:
    """Format a Markdown table; the arguments are those of :func:`text_table`."""
    align = ["---" if column in left else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, align, *lines])
