"""Generate the shapes data set: colored shapes with boxes and masks, in COCO's layout.

python tools/make_shapes.py data/shapes
"""

import sys

from _program import generate_data_set, program

from stvit_video.synthetic.shapes import ShapesRecipe, make_shapes_dataset


@program("make_shapes.py")
def main() -> None:
    """Generate the data set."""
    generate_data_set(
        ShapesRecipe,
        make_shapes_dataset,
        description=__doc__,
        layout="annotations/ and the images of three splits",
        unit="images",
    )


if __name__ == "__main__":
    sys.exit(main())
