"""Generate the motion data set: short videos of a moving camera, in eight classes.

python tools/make_motion_videos.py data/motion
"""

import sys

from _program import generate_data_set, program

from stvit_video.synthetic.motion import MotionRecipe, make_motion_dataset


@program("make_motion_videos.py")
def main() -> None:
    """Generate the data set."""
    generate_data_set(
        MotionRecipe,
        make_motion_dataset,
        description=__doc__,
        layout="train.csv, val.csv, test.csv and the videos",
        unit="videos",
    )


if __name__ == "__main__":
    sys.exit(main())
