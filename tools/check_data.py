"""Check a data set before training: lines, labels, duplicates, and every frame of every video.

For a detector's config, the annotation files and every image and mask are checked. For a config
that reads class folders of images, the folders and every image are checked.

    python tools/check_data.py --cfg configs/k400/stvit_swin_t.yaml DATA.PATH_TO_DATA_DIR /data/k400
    python tools/check_data.py --csv /data/k400/train.csv --num_classes 400

The folder --output gets quarantine.csv (unreadable videos), problems.txt, SPLIT.clean.csv (lines
without unreadable and duplicate videos), statistics.csv, statistics.png, and journal.jsonl, from
which an interrupted check resumes. The exit status is 0 for a clean data set, 1 if there are
problems, and 2 for invalid arguments.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _program import program
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.config.defaults import default_config
from stvit_video.errors import UserError

if TYPE_CHECKING:
    from stvit_video.data.check.coco import CocoCheck
    from stvit_video.data.check.csv_files import CsvCheck
    from stvit_video.data.check.images import ImageFolderCheck


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cfg", metavar="FILE", help="YAML config whose splits are checked")
    source.add_argument("--csv", nargs="+", type=Path, metavar="FILE", help="CSV files to check")
    parser.add_argument("--num_classes", type=int, help="with --csv: number of classes")
    parser.add_argument(
        "--output", type=Path, default=Path("check_data"), help="output folder (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of processes (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="decode three frames of each video instead of all"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="with --cfg: overrides of config keys"
    )
    return parser.parse_intermixed_args(arguments)


@program("check_data.py")
def main(arguments: Sequence[str]) -> int:
    """Check the data set and print the report."""
    options = parse_arguments(arguments)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, but it is {options.workers}.")
    cfg = load_config(options.cfg, options.overrides) if options.cfg else default_config()
    build = _CHECKS[cfg.TRAIN.DATASET] if options.cfg else _csv_check
    problems, report = build(cfg, options).run()
    print(report)
    print(f"\nThe lists are in {options.output}")
    return 1 if problems else 0


# These functions import their checks themselves to keep --help and errors in arguments fast.
def _csv_check(cfg: CfgNode, options: argparse.Namespace) -> "CsvCheck":
    from stvit_video.data.check.csv_files import CsvCheck

    return CsvCheck(
        csv_files=_files_of_config(cfg.DATA.PATH_TO_DATA_DIR)
        if options.cfg
        else _files_by_name(options.csv),
        prefix=cfg.DATA.PATH_PREFIX,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        num_classes=cfg.MODEL.NUM_CLASSES if options.cfg else _num_classes(options),
        backend=cfg.DATA.DECODING_BACKEND,
        every_frame=not options.quick,
        num_workers=options.workers,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        output=options.output,
    )


def _coco_check(cfg: CfgNode, options: argparse.Namespace) -> "CocoCheck":
    from stvit_video.data.check.coco import CocoCheck
    from stvit_video.data.coco.build import split_files

    return CocoCheck(
        splits=split_files(cfg),
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_workers=options.workers,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        output=options.output,
    )


def _image_check(cfg: CfgNode, options: argparse.Namespace) -> "ImageFolderCheck":
    from stvit_video.data.check.images import ImageFolderCheck

    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    folders = {name: root / name for name in ("train", "val") if (root / name).is_dir()}
    if not cfg.DATA.PATH_TO_DATA_DIR or not folders:
        raise UserError(
            f'DATA.PATH_TO_DATA_DIR "{cfg.DATA.PATH_TO_DATA_DIR}" must be a folder with train/ or '
            "val/, each with a folder of images for every class."
        )
    return ImageFolderCheck(
        folders=folders,
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_workers=options.workers,
        seconds_per_video=cfg.DATA.DECODE_TIMEOUT,
        output=options.output,
    )


_CHECKS: "dict[str, Callable[..., CsvCheck | ImageFolderCheck | CocoCheck]]" = {
    "kinetics": _csv_check,
    "imagenet": _image_check,
    "coco": _coco_check,
}


def _files_of_config(folder: str) -> dict[str, Path]:
    files = {name: Path(folder) / f"{name}.csv" for name in ("train", "val", "test")}
    found = {name: path for name, path in files.items() if path.is_file()}
    if not folder or not found:
        raise UserError(
            f'DATA.PATH_TO_DATA_DIR "{folder}" must be a folder with train.csv, val.csv or '
            "test.csv."
        )
    return found


def _files_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    files = {path.stem: path for path in paths}
    if len(files) < len(paths):
        raise UserError(
            "The files of --csv must have different names, because their results are named after "
            "them: rename one."
        )
    return files


def _num_classes(options: argparse.Namespace) -> int:
    if options.overrides:
        raise UserError("Config overrides need --cfg; with --csv give only --num_classes.")
    if options.num_classes is None or options.num_classes < 1:
        raise UserError("--csv needs --num_classes, which must be at least 1.")
    return options.num_classes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
