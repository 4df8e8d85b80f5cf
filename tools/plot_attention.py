"""Plot the attention of a trained model's semantic tokens over a test video.

python tools/plot_attention.py --cfg configs/demo/stvit_swin_motion.yaml --output attention.png
"""

import argparse
import sys
from pathlib import Path

from _program import program

from stvit_video.config import load_config
from stvit_video.inference.attention import plot_attention


@program("plot_attention.py")
def main() -> None:
    """Parse the command line, and write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config of the model")
    parser.add_argument("--output", required=True, type=Path, help="output PNG file")
    parser.add_argument(
        "--index", type=int, default=0, help="index of the video in the test split (0)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="overrides of config keys"
    )
    arguments = parser.parse_intermixed_args()
    cfg = load_config(arguments.cfg, arguments.overrides)
    print(plot_attention(cfg, video_index=arguments.index, output=arguments.output))


if __name__ == "__main__":
    sys.exit(main())
