"""Check a data set before training: lines, labels, duplicates, and every frame of every video.

Of a detector's config the annotation files are checked, and every image and mask; of a config for
folders of images by class, the folders, and every image.

    python tools/check_data.py --cfg configs/k400/stvit_swin_t.yaml DATA.PATH_TO_DATA_DIR /data/k400
    python tools/check_data.py --csv /data/k400/train.csv --num_classes 400

It writes, to the folder --output: quarantine.csv (videos that cannot be read), problems.txt,
SPLIT.clean.csv (the lines without broken and repeated videos), statistics.csv and statistics.png,
and journal.jsonl, by which it goes on where it was stopped. The exit status is 0 for a clean data
set, 1 if there are problems, and 2 after a mistake in the arguments.
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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cfg", metavar="FILE", help="YAML config, whose splits are checked")
    what.add_argument("--csv", nargs="+", type=Path, metavar="FILE", help="CSV files to check")
    parser.add_argument("--num_classes", type=int, help="with --csv: number of classes")
    parser.add_argument("--output", type=Path, default=Path("check_data"), help="(%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="decode three frames of each video instead of all"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="with --cfg: config overrides"
    )
    return parser.parse_intermixed_args(arguments)


@program("check_data.py")
def main(arguments: Sequence[str]) -> int:
    """Check the data set and print the report."""
    options = parse_arguments(arguments)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, but it is {options.workers}")
    cfg = load_config(options.cfg, options.overrides) if options.cfg else default_config()
    build = _CHECKS[cfg.TRAIN.DATASET] if options.cfg else _csv_check
    problems, report = build(cfg, options).run()
    print(report)
    print(f"\nThe lists are in {options.output}")
    return 1 if problems else 0


# All import here so that --help and a typing error need not wait seconds for PyTorch.
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
            "val/, and in each a folder of images for every class"
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
    there = {name: path for name, path in files.items() if path.is_file()}
    if not folder or not there:
        raise UserError(
            f'DATA.PATH_TO_DATA_DIR "{folder}" must be a folder with train.csv, val.csv or test.csv'
        )
    return there


def _files_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    files = {path.stem: path for path in paths}
    if len(files) < len(paths):
        raise UserError("the files of --csv must have different names, as their results do")
    return files


def _num_classes(options: argparse.Namespace) -> int:
    if options.overrides:
        raise UserError("config overrides go with --cfg; --csv takes --num_classes alone")
    if options.num_classes is None or options.num_classes < 1:
        raise UserError("--csv needs --num_classes, which must be at least 1")
    return options.num_classes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
