"""Names of classes: of PySlowFast's JSON file {class name: label}, or of an image's folders."""

import json
from contextlib import suppress
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit_video.data.imagenet import class_folders
from stvit_video.errors import UserError

_DEFAULT_FILE = "classes.json"


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the name of every class, in the order of labels.

    They come from TENSORBOARD.CLASS_NAMES_PATH, else from classes.json in DATA.PATH_TO_DATA_DIR,
    else, of images, from the class folders there; without any, the labels' numbers are their names.

    Raises:
        UserError: the file is missing or does not name the labels from 0 to NUM_CLASSES - 1.
    """
    if cfg.TENSORBOARD.CLASS_NAMES_PATH:
        return read_class_names(Path(cfg.TENSORBOARD.CLASS_NAMES_PATH), cfg.MODEL.NUM_CLASSES)
    path = Path(cfg.DATA.PATH_TO_DATA_DIR) / _DEFAULT_FILE
    if path.is_file():
        return read_class_names(path, cfg.MODEL.NUM_CLASSES)
    if cfg.TEST.DATASET == "imagenet" and cfg.DATA.PATH_TO_DATA_DIR:
        for split in ("val", "train"):
            with suppress(UserError):
                names = class_folders(path.parent / split)
                if len(names) == cfg.MODEL.NUM_CLASSES:
                    return names
    return [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Read a JSON file {class name: label} whose labels are 0 to ``num_classes - 1``.

    Raises:
        UserError: it cannot be read, or names other labels.
    """
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The file of class names {path} cannot be read ({error}).") from error
    if not isinstance(labels, dict) or not _numbers_all(labels, num_classes):
        raise UserError(
            f"The file of class names {path} must map a name to every label from 0 to "
            f"{num_classes - 1} (MODEL.NUM_CLASSES is {num_classes}) and to no other."
        )
    # Kinetics' own file has its names in quotes, inside of JSON's.
    return [name.strip('"') for name in sorted(labels, key=labels.__getitem__)]


def _numbers_all(labels: dict, num_classes: int) -> bool:
    numbers = list(labels.values())
    return len(numbers) == num_classes and all(label in numbers for label in range(num_classes))
