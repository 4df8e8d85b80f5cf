"""Draw what each augmentation makes of a generated clip: the pictures of docs/augmentations.md.

python tools/plot_augmentations.py docs/augmentations
"""

import argparse
import sys
from pathlib import Path

from _program import program

from stvit_video.engine.augmentation_figures import plot_augmentations


@program("plot_augmentations.py")
def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the pictures, PNG files; made")
    for path in plot_augmentations(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
