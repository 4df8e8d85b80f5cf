"""Make the motion data set: short videos of a moving camera, in eight classes.

python tools/make_motion_videos.py data/motion
"""

import argparse
import os
import sys
import time
from dataclasses import fields

from _program import program

from stvit_video.synthetic.motion import MotionRecipe, make_motion_dataset


@program("make_motion_videos.py")
def main() -> None:
    """Parse the command line and make the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help="made, with train.csv, val.csv, test.csv and the videos")
    for field in fields(MotionRecipe):
        what = "seed of all choices" if field.name == "seed" else f"videos of {field.name}.csv"
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"{what} (%(default)s)"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)"
    )
    options = parser.parse_args()
    recipe = MotionRecipe(options.seed, options.train, options.val, options.test)
    began = time.perf_counter()
    is_new = make_motion_dataset(options.folder, recipe, num_workers=options.workers)
    if is_new:
        videos = sum(recipe.counts.values())
        print(f"{options.folder}: {videos} videos in {time.perf_counter() - began:.1f} s")
    else:
        print(f"{options.folder} holds this data set already; nothing was done")


if __name__ == "__main__":
    sys.exit(main())
