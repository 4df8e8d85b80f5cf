"""Ablations as a table: text, JSON and Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev

from stvit_video.engine.ablation_rows import Variant
from stvit_video.engine.tables import markdown_table, text_table

NOTE = (
    "A small-scale echo of the paper's ablations: small models, trained briefly on generated "
    "pictures. Differences below the spread (standard deviation over the seeds) say nothing."
)
_HEADER = (
    "study",
    "variant",
    "parameters",
    "MFLOPs",
    "top-1, mean",
    "spread",
    "seeds",
    "paper's DeiT-S, ImageNet",
)
_WORDS = (0, 1)


@dataclass
class AblationRow:
    """A variant and what was measured of it.

    Attributes:
        variant: what it is.
        parameters: of its model.
        flops: multiply-accumulates of one image.
        top1: accuracy in percent by seed, of the runs that are finished.
    """

    variant: Variant
    parameters: int
    flops: int
    top1: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean accuracy over the seeds; None before the first run."""
        return mean(self.top1.values()) if self.top1 else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None with fewer than two."""
        return stdev(self.top1.values()) if len(self.top1) > 1 else None


def as_text(rows: Sequence[AblationRow]) -> str:
    """Write rows as a table for a terminal."""
    return f"{text_table(_HEADER, _cells(rows), left=_WORDS)}\n\n{NOTE}"


def as_markdown(rows: Sequence[AblationRow]) -> str:
    """Write rows as a table of Markdown."""
    return f"{markdown_table(_HEADER, _cells(rows), left=_WORDS)}\n\n{NOTE}"


def as_json(rows: Sequence[AblationRow]) -> str:
    """Write rows as JSON, the accuracies of all seeds among them."""
    entries = [{**asdict(row), "mean": row.mean, "spread": row.spread} for row in rows]
    return json.dumps({"note": NOTE, "rows": entries}, indent=2)


def _cells(rows: Sequence[AblationRow]) -> list[tuple[str, ...]]:
    return [
        (
            row.variant.study,
            row.variant.name,
            f"{row.parameters:,}",
            f"{row.flops / 1e6:.1f}",
            _percent(row.mean),
            _percent(row.spread),
            str(len(row.top1)),
            _percent(row.variant.paper_top1),
        )
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
