"""Folders of images by class, as ImageNet comes: ``train/<wnid>/*.JPEG``, ``val/<wnid>/*.JPEG``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError

# Those of torchvision's ImageFolder.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(folder: str | Path) -> list[str]:
    """Give the names of the classes of a split in the order of their labels, which is sorted.

    Raises:
        UserError: there is no such folder, or no folder in it.
    """
    folder = Path(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder} ({error.strerror}): set DATA.PATH_TO_DATA_DIR to a "
            "folder with train/ and val/, and in each a folder of images for every class"
        ) from error
    if not names:
        raise UserError(f"{folder} holds no folders: it needs one for every class")
    return names


def class_files(folder: Path) -> tuple[list[str], list[str]]:
    """List what is in the folder of a class, sorted: images, and what is none by its suffix.

    Hidden files, which systems leave there, are neither, unless they have an image's suffix.

    Raises:
        UserError: it cannot be read.
    """
    try:
        # Without a look at each file: there are a million of them, perhaps on a network disk.
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
        folder: of the split; holds a folder of images for every class.
        num_classes: how many classes there must be.
        like: folder of another split, whose classes must be the same.

    Raises:
        UserError: a folder cannot be read, its classes are not as many as asked for or not
            those of the other split, or one holds no images.
    """
    folder = Path(folder)
    names = class_folders(folder)
    if len(names) != num_classes:
        raise UserError(
            f"{folder} holds {len(names)} folders, one for each class, but MODEL.NUM_CLASSES is "
            f"{num_classes}: change one of them"
        )
    if like is not None and names != (others := class_folders(like)):
        odd = min(set(names) ^ set(others))
        raise UserError(
            f"{folder} and {like} must hold the same class folders, but {odd} is in one alone"
        )
    images = {name: class_files(folder / name)[0] for name in names}
    for name, found in images.items():
        if not found:
            raise UserError(
                f"the class folder {folder / name} holds no images "
                f"({', '.join(IMAGE_SUFFIXES)}): remove it, or fill it"
            )
    return label_images(folder, images)


def label_images(folder: Path, images: Mapping[str, Sequence[str]]) -> LabeledPaths:
    """Label the images of each class by its place; paths are from ``folder``."""
    files = (
        (f"{name}/{image}", label) for label, name in enumerate(images) for image in images[name]
    )
    entries = [Entry(number, path, label) for number, (path, label) in enumerate(files, start=1)]
    return LabeledPaths(folder, entries, unit="image", items="images")
