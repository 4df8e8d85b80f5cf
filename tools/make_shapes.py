"""Make the shapes data set: colored shapes with boxes and masks, in COCO's layout.

python tools/make_shapes.py data/shapes
"""

import argparse
import os
import sys
import time
from dataclasses import fields

from _program import program

from stvit_video.synthetic.shapes import ShapesRecipe, make_shapes_dataset


@program("make_shapes.py")
def main() -> None:
    """Parse the command line and make the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help="made, with annotations/ and the images of three splits")
    for field in fields(ShapesRecipe):
        what = "seed of all choices" if field.name == "seed" else f"images of {field.name}"
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{what} (%(default)s)"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)"
    )
    options = parser.parse_args()
    recipe = ShapesRecipe(options.seed, options.train, options.val, options.test)
    began = time.perf_counter()
    if make_shapes_dataset(options.folder, recipe, num_workers=options.workers):
        images = recipe.train + recipe.val + recipe.test
        print(f"{options.folder}: {images} images in {time.perf_counter() - began:.1f} s")
    else:
        print(f"{options.folder} holds this data set already; nothing was done")


if __name__ == "__main__":
    sys.exit(main())
