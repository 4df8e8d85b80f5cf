"""Train variants of the digits demo with several seeds, and print a table of their accuracies.

python tools/make_digit_images.py data/digits
python tools/ablations.py
python tools/ablations.py --studies layers pooling --seeds 0 1 2 3 4
python tools/ablations.py --markdown --opts SOLVER.MAX_EPOCH 10

Finished runs are not repeated, and an interrupted run resumes from its last checkpoint.
"""

import argparse
import sys
from pathlib import Path

from _program import program

from stvit_video.paper.ablations import as_json, as_markdown, as_text, run_ablations, variants

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    known = list(dict.fromkeys(variant.study for variant in variants()))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", choices=known, default=known, help="(all)")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="RNG_SEED of the runs (0 1 2)"
    )
    parser.add_argument("--output", default="output/ablations", help="output folder (%(default)s)")
    output_format = parser.add_mutually_exclusive_group()
    output_format.add_argument("--json", dest="format", action="store_const", const=as_json)
    output_format.add_argument("--markdown", dest="format", action="store_const", const=as_markdown)
    parser.set_defaults(format=as_text)
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the configs"
    )
    return parser.parse_args()


@program("ablations.py")
def main() -> None:
    """Run the ablations, and print the table."""
    arguments = parse_arguments()
    rows = run_ablations(
        [variant for variant in variants() if variant.study in arguments.studies],
        configs=_CONFIGS,
        output=Path(arguments.output),
        seeds=arguments.seeds,
        overrides=arguments.opts,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(arguments.format(rows))


if __name__ == "__main__":
    sys.exit(main())
