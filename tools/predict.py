"""Classify images or videos, or detect objects in an image and draw them.

A classifier uses all views of the test, and prints the top-5 classes of each file in percent. Files
are images or videos, folders of them, or CSV files (path, or path label):

    python tools/predict.py photo.jpg folder/ --cfg configs/imagenet/deit_s.yaml \\
        TEST.CHECKPOINT_FILE_PATH deit_small.pth TENSORBOARD.CLASS_NAMES_PATH names.json
    python tools/predict.py video.mp4 --cfg configs/k400/stvit_swin_t.yaml --output top5.csv

As in the test, the EXIF orientation of images is ignored. Unreadable files are skipped with a
warning; the exit status is 2 if none can be read. Class names come from
TENSORBOARD.CLASS_NAMES_PATH (a JSON file {name: label}), else from classes.json or the class
folders in DATA.PATH_TO_DATA_DIR; otherwise labels are printed.

A detector takes one image, applies its EXIF orientation, and draws boxes, masks and names on it:

    python tools/predict.py IMAGE --cfg configs/demo/swin_shapes.yaml --output found.png
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from _program import program
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.config.defaults import default_config
from stvit_video.engine.build import is_detection
from stvit_video.errors import UserError
from stvit_video.inference.classify import classify, write_top_classes
from stvit_video.inference.detect import draw_detections

_MIN_SCORE = 0.5


@program("predict.py")
def main() -> None:
    """Parse the command line, and classify or detect."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE",
        help="images or videos, folders, CSV files, or one image for a detector; then overrides of "
        "config keys, such as TEST.CHECKPOINT_FILE_PATH weights.pyth",
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config of the model")
    parser.add_argument(
        "--output",
        type=Path,
        help="PNG file for the image with the detections, or CSV file for the top classes",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        help=f"lowest score of a detected object (default {_MIN_SCORE})",
    )
    arguments = parser.parse_intermixed_args()
    files, overrides = split_words(arguments.words)
    cfg = load_config(arguments.cfg, overrides)
    predict = _detect if is_detection(cfg) else _classify
    predict(cfg, files, arguments)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into files and config overrides, which begin at the first config key.

    Raises:
        UserError: there are no files.
    """
    sections = default_config().keys()
    keys = [i for i, word in enumerate(words) if re.split(r"[.=\s]", word)[0] in sections]
    end = keys[0] if keys else len(words)
    if end == 0:
        raise UserError(
            f"Give files before config overrides: {words[0]} is a config key, not a file."
        )
    return list(words[:end]), list(words[end:])


def _detect(cfg: CfgNode, files: Sequence[str], arguments: argparse.Namespace) -> None:
    if len(files) > 1:
        raise UserError(
            f"A detector takes one image, but there are {len(files)} files: give only one."
        )
    if arguments.output is None:
        raise UserError("A detector needs a file for the drawn image: give --output FILE.")
    min_score = _MIN_SCORE if arguments.min_score is None else arguments.min_score
    found = draw_detections(cfg, files[0], output=arguments.output, min_score=min_score)
    print("\n".join([*found, f"{len(found)} objects; {arguments.output}"]))


def _classify(cfg: CfgNode, files: Sequence[str], arguments: argparse.Namespace) -> None:
    if arguments.min_score is not None:
        raise UserError(f'--min-score is only for detectors, not for "{cfg.MODEL.ARCH}": omit it.')
    if arguments.output is not None and arguments.output.suffix != ".csv":
        raise UserError(
            f"The top classes are written to a .csv file, but --output is {arguments.output}: end "
            "its name with .csv."
        )
    classified = []
    for top in classify(cfg, files):
        print("\n".join(top.lines(in_percent=cfg.MODEL.HEAD_ACT != "none")), flush=True)
        classified.append(top)
    if arguments.output is not None:
        write_top_classes(arguments.output, classified)


if __name__ == "__main__":
    # Without this, "predict.py ... | head" would end with a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
