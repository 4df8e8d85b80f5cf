"""Generate the digits data set: images of scikit-learn's handwritten digits, in ten classes.

python tools/make_digit_images.py data/digits
"""

import sys

from _program import generate_data_set, program

from stvit_video.synthetic.digits import DigitRecipe, make_digit_dataset


@program("make_digit_images.py")
def main() -> None:
    """Generate the data set."""
    generate_data_set(
        DigitRecipe,
        make_digit_dataset,
        description=__doc__,
        layout="a folder for every class in train/ and val/",
        unit="images",
    )


if __name__ == "__main__":
    sys.exit(main())
