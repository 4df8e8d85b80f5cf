"""Compare counted FLOPs with the paper, except for the largest models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paper_tables import measure_speed

from stvit_video.config import load_config
from stvit_video.paper.rows import paper_rows
from stvit_video.paper.tables import (
    MeasuredRow,
    as_json,
    as_markdown,
    as_text,
    measure,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ROWS = {f"{row.table}, {row.name}": row for row in paper_rows()}
# tests/models/test_flops.py counts video models and detector backbones without running them.
IMAGE_ROWS = {name: row for name, row in ROWS.items() if not (row.is_video or row.is_detector)}
SMALL_ROWS = {name: row for name, row in IMAGE_ROWS.items() if "-B" not in name}


def test_every_row_of_the_tables_is_there():
    counts = {table: sum(row.table == table for row in ROWS.values()) for table in range(1, 10)}
    # Table 4 has only the paper's own models, and Table 5 each semantic model with two paddings.
    assert counts == {1: 15, 2: 15, 3: 4, 4: 2, 5: 6, 6: 4, 7: 4, 8: 3, 9: 3}


@pytest.mark.parametrize("row", SMALL_ROWS.values(), ids=SMALL_ROWS)
def test_flops_are_the_papers(row):
    assert measure(row, configs=CONFIGS).is_within_tolerance


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_row_has_a_config(row):
    load_config(CONFIGS / row.config, row.overrides)


@pytest.mark.parametrize(
    ("gflops", "difference", "is_within"),
    [(0.6049, 0.0, True), (0.6074, 0.004, True), (0.609, 0.0067, False), (0.590, -0.0083, False)],
)
def test_rounding_of_the_published_value_is_no_difference(gflops, difference, is_within):
    row = MeasuredRow(ROWS["1, STViT-DeiT-T, 36 tokens"], parameters=1, gflops=gflops)
    assert row.difference == pytest.approx(difference, abs=1e-4)
    assert row.is_within_tolerance == is_within


def test_tables_mark_differences():
    base, good, bad = (
        MeasuredRow(ROWS[name], 5_717_416, gflops)
        for name, gflops in [
            ("1, DeiT-T", 1.251),
            ("1, STViT-DeiT-T, 16 tokens", 0.53),
            ("1, STViT-DeiT-T, 36 tokens", 0.7),
        ]
    )
    good.speedup = 2.25
    lines = as_text([base, good, bad]).splitlines()
    assert ["(!)" in line for line in lines] == [False, False, False, True]
    assert "2.00" in lines[2]  # the paper's 5511 / 2752
    assert "2.25" in lines[2]
    markdown = as_markdown([base, good, bad]).splitlines()
    assert {line.count("|") for line in markdown} == {10}
    entries = json.loads(as_json([base, good, bad]))
    assert [entry["measured"]["within_tolerance"] for entry in entries] == [True, True, False]


def test_speedup_is_relative_to_the_base():
    small = ("DEIT.EMBED_DIM", "24", "DEIT.NUM_HEADS", "2")
    rows = [
        MeasuredRow(replace(row, overrides=(*row.overrides, *small)), 0, 0.0)
        for row in (ROWS["1, DeiT-T"], ROWS["1, STViT-DeiT-T, 16 tokens"])
    ]
    measure_speed(rows, configs=CONFIGS, device=torch.device("cpu"), batch=2, rounds=3)
    assert rows[0].speedup is None
    assert rows[1].speedup > 0
