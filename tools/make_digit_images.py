"""Make the digits data set: pictures of scikit-learn's handwritten digits, in ten classes.

python tools/make_digit_images.py data/digits
"""

import argparse
import os
import sys
import time
from dataclasses import fields

from _program import program

from stvit_video.synthetic.digits import DigitRecipe, make_digit_dataset


@program("make_digit_images.py")
def main() -> None:
    """Parse the command line and make the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help="made, with a folder for every class in train/ and val/")
    for field in fields(DigitRecipe):
        what = "seed of all choices" if field.name == "seed" else f"pictures of {field.name}/"
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{what} (%(default)s)"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)"
    )
    options = parser.parse_args()
    recipe = DigitRecipe(options.seed, options.train, options.val)
    began = time.perf_counter()
    if make_digit_dataset(options.folder, recipe, num_workers=options.workers):
        pictures = recipe.train + recipe.val
        print(f"{options.folder}: {pictures} pictures in {time.perf_counter() - began:.1f} s")
    else:
        print(f"{options.folder} holds this data set already; nothing was done")


if __name__ == "__main__":
    sys.exit(main())
