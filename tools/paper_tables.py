"""Print the paper's tables beside what is measured here.

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
from _program import device, positive, program

from stvit_video.benchmarks.models import compare, pair_ratios
from stvit_video.paper.rows import paper_rows
from stvit_video.paper.tables import (
    MeasuredRow,
    as_json,
    as_markdown,
    as_text,
    build_row,
    input_of,
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
    parser.add_argument("--tables", nargs="+", type=int, choices=known, default=known)
    parser.add_argument("--speed", action="store_true", help="time each model against its base")
    parser.add_argument("--batch", type=positive, default=1, help="inputs at once (default 1)")
    parser.add_argument("--rounds", type=positive, default=7, help="rounds that count (default 7)")
    parser.add_argument("--device", type=device, default="auto", help="cpu, cuda (%(default)s)")
    parser.add_argument("--amp", choices=("bfloat16", "float16"), help="automatic mixed precision")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="write", action="store_const", const=as_json)
    form.add_argument("--markdown", dest="write", action="store_const", const=as_markdown)
    parser.set_defaults(write=as_text)
    return parser.parse_args()


@program("paper_tables.py")
def main() -> None:
    """Measure the rows and print them; what does not agree with the paper is marked (!)."""
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
    print(arguments.write(rows))


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
        inputs = input_of(row.paper, batch=batch).to(device)
        timings = compare(pair, inputs, rounds=rounds, amp=amp)
        row.speedup = median(pair_ratios(*timings.values()))


if __name__ == "__main__":
    sys.exit(main())
