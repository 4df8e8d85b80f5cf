"""Find the objects in an image, and draw their boxes, masks and names into a picture of it.

python tools/predict.py IMAGE --cfg configs/demo/swin_shapes.yaml --output found.png
"""

import argparse
import sys
from pathlib import Path

from _program import program

from stvit_video.config import load_config
from stvit_video.engine.detection.predict import draw_detections


@program("predict.py")
def main() -> None:
    """Parse the command line, detect and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", metavar="IMAGE", help="a file that Pillow reads")
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config of a detector")
    parser.add_argument("--output", required=True, type=Path, help="the picture, a PNG file")
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="of what is drawn (%(default)s)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY VALUE",
        help="config overrides, such as TEST.CHECKPOINT_FILE_PATH detector.pyth",
    )
    arguments = parser.parse_intermixed_args()
    cfg = load_config(arguments.cfg, arguments.overrides)
    found = draw_detections(
        cfg, arguments.image, output=arguments.output, min_score=arguments.min_score
    )
    print("\n".join([*found, f"{len(found)} objects; {arguments.output}"]))


if __name__ == "__main__":
    sys.exit(main())
