"""Read class folders of images as in ImageNet: ``train/<wnid>/*.JPEG``, ``val/<wnid>/*.JPEG``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError

# The extensions of torchvision's ImageFolder.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(folder: str | Path) -> list[str]:
    """Return the class names of a split in the order of their labels, which is alphabetical.

    Raises:
        UserError: the folder cannot be read, or has no subfolders.
    """
    folder = Path(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder} ({error.strerror}): set DATA.PATH_TO_DATA_DIR to a "
            "folder with train/ and val/, each with one folder of images per class"
        ) from error
    if not names:
        raise UserError(f"{folder} holds no folders: it needs one per class")
    return names


def class_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the images in a class folder, and of all other files.

    Only the suffix decides. Hidden files without an image suffix are in neither list, as operating
    systems leave them behind.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        # No stat of each file: there may be a million of them on a network disk.
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read the class folder {folder} ({error.strerror})") from error
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    others = set(names).difference(images)
    return images, sorted(name for name in others if not name.startswith("."))


def read_image_folders(
    folder: str | Path, *, num_classes: int, like: str | Path | None = None
) -> LabeledPaths:
    """List the images of a split, class by class.

    Args:
        folder: folder of the split, with one folder of images per class.
        num_classes: expected number of classes.
        like: folder of another split that must have the same classes.

    Raises:
        UserError: a folder cannot be read, the number of classes is not ``num_classes``, the other
            split has other classes, or a class has no images.
    """
    folder = Path(folder)
    names = class_folders(folder)
    if len(names) != num_classes:
        raise UserError(
            f"{folder} holds {len(names)} folders, one for each class, but MODEL.NUM_CLASSES is "
            f"{num_classes}: change one of them"
        )
    if like is not None and names != (others := class_folders(like)):
        unmatched = min(set(names) ^ set(others))
        raise UserError(
            f"{folder} and {like} must hold the same class folders, but {unmatched} is in one of "
            "them only"
        )
    images = {name: class_files(folder / name)[0] for name in names}
    for name, found in images.items():
        if not found:
            raise UserError(
                f"the class folder {folder / name} holds no images "
                f"({', '.join(IMAGE_SUFFIXES)}): remove it or add images"
            )
    return label_images(folder, images)


def label_images(folder: Path, images: Mapping[str, Sequence[str]]) -> LabeledPaths:
    """Label images by the position of their class; paths are relative to ``folder``."""
    labeled = (
        (f"{name}/{image}", label) for label, name in enumerate(images) for image in images[name]
    )
    entries = [Entry(number, path, label) for number, (path, label) in enumerate(labeled, start=1)]
    return LabeledPaths(folder, entries, unit="image", items="images")
