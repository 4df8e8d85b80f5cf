"""Measure the rows of the paper's tables, and write them beside what the paper says."""

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


def text_table(header: Line, lines: Sequence[Line], *, left: Collection[int] = (0,)) -> str:
    """Write a table for a terminal.

    Args:
        header: names of the columns.
        lines: cells, as many in each line as in the header.
        left: columns of words, which begin at the left; numbers end at the right.
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
    """Write a table of Markdown; the arguments are those of :func:`text_table`."""
    align = ["---" if column in left else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, align, *lines])


_IMAGE, _VIDEO, _DETECTION = (3, 224, 224), (3, 32, 224, 224), (3, 800, 1344)


@dataclass
class MeasuredRow:
    """A row of the paper and what was measured of it.

    Attributes:
        paper: the row.
        parameters: of the model.
        gflops: multiply-accumulates of one input, in units of 10^9.
        speedup: how many times as fast as its base's model; None if not measured.
    """

    paper: PaperRow
    parameters: int
    gflops: float
    speedup: float | None = None

    @property
    def difference(self) -> float | None:
        """Share by which the count differs from the paper's, beyond the rounding of the latter."""
        if not self.paper.gflops:
            return None
        printed = float(self.paper.gflops)
        half_a_digit = 0.5 * 10.0 ** -len(self.paper.gflops.partition(".")[2])
        excess = max(0.0, abs(self.gflops - printed) - half_a_digit)
        return excess / printed * (1 if self.gflops > printed else -1)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether the count agrees with the paper's, if that has one."""
        below, above = self.paper.tolerance
        return self.difference is None or -below <= self.difference <= above


def build_row(row: PaperRow, *, configs: Path) -> nn.Module:
    """Build the model of a row, in evaluation mode.

    Args:
        row: whose model it is.
        configs: the folder ``configs/``.
    """
    return build_model(load_config(configs / row.config, row.overrides)).eval()


def measure(row: PaperRow, *, configs: Path) -> MeasuredRow:
    """Count a row's parameters and FLOPs."""
    model = build_row(row, configs=configs)
    return MeasuredRow(
        row, count_parameters(model), count_flops(model, input_of(row, batch=1)) / 1e9
    )


def as_json(rows: Iterable[MeasuredRow]) -> str:
    """Write rows as a JSON list."""
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
# Columns of words: the row and its config.
_WORDS = (0, len(_HEADER) - 1)


def as_text(rows: Sequence[MeasuredRow]) -> str:
    """Write rows as a table for a terminal."""
    return text_table(_HEADER, _cells(rows), left=_WORDS)


def as_markdown(rows: Sequence[MeasuredRow]) -> str:
    """Write rows as a table of Markdown."""
    return markdown_table(_HEADER, _cells(rows), left=_WORDS)


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
                "-" if row.difference is None else f"{_raw_difference(row):+.1%}{mark}",
                "-" if ratio is None else f"{ratio:.2f}",
                "-" if row.speedup is None else f"{row.speedup:.2f}",
                str(paper.top1),
                " ".join([paper.config, *_as_pairs(paper.overrides)]),
            )
        )
    return lines


def _raw_difference(row: MeasuredRow) -> float:
    return row.gflops / float(row.paper.gflops) - 1


def _as_pairs(overrides: Sequence[str]) -> list[str]:
    return [
        f"{key} '{value}'" if " " in value else f"{key} {value}"
        for key, value in zip(overrides[::2], overrides[1::2], strict=True)
    ]


def input_of(row: PaperRow, *, batch: int) -> torch.Tensor:
    """Make an input of the size of the paper's."""
    shape = _VIDEO if row.is_video else _DETECTION if row.is_detector else _IMAGE
    return torch.zeros(batch, *shape)
