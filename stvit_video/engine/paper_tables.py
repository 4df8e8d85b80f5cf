"""The paper's tables beside what is measured here: parameters, FLOPs and relative speed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from stvit_video.config import load_config
from stvit_video.engine.benchmark import compare, pair_ratios
from stvit_video.engine.paper_rows import PaperRow, paper_rows
from stvit_video.engine.tables import markdown_table, text_table
from stvit_video.models import build_model
from stvit_video.models.profile import count_flops, count_parameters

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
        row, count_parameters(model), count_flops(model, _input_of(row, batch=1)) / 1e9
    )


def measure_speed(
    rows: Sequence[MeasuredRow],
    *,
    configs: Path,
    device: torch.device,
    batch: int,
    rounds: int,
    amp: torch.dtype | None = None,
) -> None:
    """Fill in the speed of each row relative to its base, the two alternating.

    Args:
        rows: bases may be of other tables.
        configs: the folder ``configs/``.
        device: where the models run.
        batch: inputs at once.
        rounds: rounds that count; the median of their ratios is taken.
        amp: type of automatic mixed precision; None for none.
    """
    by_name = {row.name: row for row in (*paper_rows(), *(row.paper for row in rows))}
    for row in rows:
        if row.paper.is_base:
            continue
        pair = {
            part.name: build_row(part, configs=configs).to(device)
            for part in (row.paper, by_name[row.paper.base])
        }
        inputs = _input_of(row.paper, batch=batch).to(device)
        timings = compare(pair, inputs, rounds=rounds, amp=amp)
        row.speedup = median(pair_ratios(*timings.values()))


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


def _input_of(row: PaperRow, *, batch: int) -> torch.Tensor:
    shape = _VIDEO if row.is_video else _DETECTION if row.is_detector else _IMAGE
    return torch.zeros(batch, *shape)
