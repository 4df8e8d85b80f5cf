"""Train the digits demo in variants, with several seeds each, and print how accurate they are.

python tools/make_digit_images.py data/digits
python tools/ablations.py
python tools/ablations.py --studies layers pooling --seeds 0 1 2 3 4
python tools/ablations.py --markdown --opts SOLVER.MAX_EPOCH 10

What is there already is not trained again: a command that was stopped goes on.
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
    parser.add_argument("--studies", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", default="output/ablations", help="folder (%(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="write", action="store_const", const=as_json)
    form.add_argument("--markdown", dest="write", action="store_const", const=as_markdown)
    parser.set_defaults(write=as_text)
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the configs"
    )
    return parser.parse_args()


@program("ablations.py")
def main() -> None:
    """Run what is missing, and print the table."""
    arguments = parse_arguments()
    rows = run_ablations(
        [variant for variant in variants() if variant.study in arguments.studies],
        configs=_CONFIGS,
        output=Path(arguments.output),
        seeds=arguments.seeds,
        overrides=arguments.opts,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(arguments.write(rows))


if __name__ == "__main__":
    sys.exit(main())
