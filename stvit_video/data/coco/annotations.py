"""COCO's annotations: those of a split, in little memory that processes share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stvit_video.data.coco.annotation_cache import load_or_parse
from stvit_video.data.coco.annotation_file import FileContent, check_classes, parse_file
from stvit_video.data.coco.packed import PackedList
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError

# Polygons as lists of coordinates, or a run-length encoding; what pycocotools decodes.
Segmentation = list[list[float]] | dict[str, Any]


class ObjectRecord(NamedTuple):
    """An object of an image.

    Attributes:
        box: left, top, right, bottom, in pixels.
        label: index of its class, from 1; 0 is the background.
        segmentation: its mask.
    """

    box: tuple[float, float, float, float]
    label: int
    segmentation: Segmentation


class ImageRecord(NamedTuple):
    """An image and its objects, without crowds and without what cannot be used."""

    id: int
    height: int
    width: int
    objects: list[ObjectRecord]


class BadAnnotation(NamedTuple):
    """An annotation that is left out, and why."""

    file: str
    id: int
    image: str
    error: str


class ImageRecords(Sequence[ImageRecord]):
    """The images of a file that a split takes.

    Args:
        packed: all images of the file.
        kept: places of those that are taken.
    """

    def __init__(self, packed: PackedList, kept: NDArray[np.int64]) -> None:
        self._packed = packed
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]
        number, height, width, objects = self._packed[int(self._kept[index])]
        records = [
            ObjectRecord(tuple(box), label, segmentation) for box, label, segmentation in objects
        ]
        return ImageRecord(number, height, width, records)


@dataclass(frozen=True)
class CocoAnnotations:
    """What an annotation file says.

    Attributes:
        paths: the images' names; the "line" of each is its place in the file's list, from 1.
        images: in the same order.
        is_wide: which of them are at least as wide as high.
        class_names: in the order of labels, without the background.
        category_ids: the file's numbers of the same classes.
        bad: annotations that were left out.
        num_without_objects: images that were left out, because nothing is to be found in them.
    """

    paths: LabeledPaths
    images: ImageRecords
    is_wide: NDArray[np.bool_]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    bad: tuple[BadAnnotation, ...]
    num_without_objects: int


def read_annotations(
    path: str | Path,
    *,
    num_classes: int,
    only_with_objects: bool = False,
    cache_folder: Path | None = None,
) -> CocoAnnotations:
    """Read an annotation file.

    Args:
        path: such as ``annotations/instances_train2017.json``.
        num_classes: how many categories it must have.
        only_with_objects: leave out images without objects, as training does.
        cache_folder: keeps what was read, so that a file is parsed once by the processes and the
            parts of a run; None: it is parsed.

    Raises:
        UserError: it cannot be read, or is not what COCO's files are; the message names the place.
    """
    path = Path(path)
    parse = partial(parse_file, path, num_classes=num_classes)
    content = load_or_parse(path, parse, folder=cache_folder) if cache_folder else parse()
    check_classes(path, len(content.categories), num_classes=num_classes)
    return _select(path, content, only_with_objects=only_with_objects)


def _select(path: Path, content: FileContent, *, only_with_objects: bool) -> CocoAnnotations:
    num_images = len(content.names)
    kept = np.arange(num_images)
    if only_with_objects:
        (kept,) = np.nonzero(np.array(content.num_objects))
    if not len(kept):
        raise UserError(f"{path} has no images{' with objects' if num_images else ''}")
    # An image as a whole has no label.
    entries = [Entry(place + 1, content.names[place], 0) for place in kept.tolist()]
    return CocoAnnotations(
        paths=LabeledPaths(path, entries, unit="image", items="images"),
        images=ImageRecords(content.images, kept),
        is_wide=np.array(content.is_wide, bool)[kept],
        class_names=tuple(name for _, name in content.categories),
        category_ids=tuple(number for number, _ in content.categories),
        bad=tuple(BadAnnotation(str(path), *each) for each in content.bad),
        num_without_objects=num_images - len(kept),
    )
