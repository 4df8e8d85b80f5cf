"""Compare the paper's tables with the values measured here.

python tools/paper_tables.py --tables 1 8
python tools/paper_tables.py --tables 1 --speed --batch 8
python tools/paper_tables.py --markdown
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from _program import device, positive_int, program

from stvit_video.benchmarks.models import compare, pair_ratios
from stvit_video.paper.rows import paper_rows
from stvit_video.paper.tables import (
    MeasuredRow,
    as_json,
    as_markdown,
    as_text,
    build_row,
    make_input,
    measure,
)
from stvit_video.runtime.distributed import disable_cudnn_attention

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    known = sorted({row.table for row in paper_rows()})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", type=int, choices=known, default=known, help="(all)")
    parser.add_argument("--speed", action="store_true", help="time each model against its base")
    parser.add_argument("--batch", type=positive_int, default=1, help="batch size (default 1)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="timed rounds (default 7)")
    parser.add_argument(
        "--device", type=device, default="auto", help="cpu, cuda or cuda:N (%(default)s)"
    )
    parser.add_argument("--amp", choices=("bfloat16", "float16"), help="automatic mixed precision")
    output_format = parser.add_mutually_exclusive_group()
    output_format.add_argument("--json", dest="format", action="store_const", const=as_json)
    output_format.add_argument("--markdown", dest="format", action="store_const", const=as_markdown)
    parser.set_defaults(format=as_text)
    return parser.parse_args()


@program("paper_tables.py")
def main() -> None:
    """Measure the rows and print them; differences to the paper are marked (!)."""
    arguments = parse_arguments()
    rows = [measure(row, configs=_CONFIGS) for row in paper_rows() if row.table in arguments.tables]
    if arguments.speed:
        disable_cudnn_attention()
        measure_speed(
            rows,
            configs=_CONFIGS,
            device=arguments.device,
            batch=arguments.batch,
            rounds=arguments.rounds,
            amp=getattr(torch, arguments.amp) if arguments.amp else None,
        )
    print(arguments.format(rows))


def measure_speed(
    rows: Sequence[MeasuredRow],
    *,
    configs: Path,
    device: torch.device,
    batch: int,
    rounds: int,
    amp: torch.dtype | None = None,
) -> None:
    """Set the speed of each row relative to its base; the two models run alternately.

    Args:
        rows: rows, whose bases may be in other tables.
        configs: the folder ``configs/``.
        device: device of the models.
        batch: batch size.
        rounds: timed rounds; the speed is the median of their ratios.
        amp: dtype of automatic mixed precision; None to disable it.
    """
    by_name = {row.name: row for row in (*paper_rows(), *(row.paper for row in rows))}
    for row in rows:
        if row.paper.is_base:
            continue
        pair = {
            paper.name: build_row(paper, configs=configs).to(device)
            for paper in (row.paper, by_name[row.paper.base])
        }
        inputs = make_input(row.paper, batch=batch).to(device)
        timings = compare(pair, inputs, rounds=rounds, amp=amp)
        row.speedup = median(pair_ratios(*timings.values()))


if __name__ == "__main__":
    sys.exit(main())
