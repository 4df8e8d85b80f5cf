"""Load the COCO annotations of a split into compact memory that processes share."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from iopath.common.file_io import file_lock
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file

from stvit_video.data.coco.annotation_file import (
    PackedList,
    ParsedFile,
    check_num_classes,
    parse_file,
)
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError

# Increase when the same annotation file is parsed to different content.
_CACHE_VERSION = 1
# Bad annotations that an error names.
_MAX_NAMED = 3

# Polygons as lists of coordinates, or a run-length encoding; the input of pycocotools.
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
    """An image and its valid objects, without crowds."""

    id: int
    height: int
    width: int
    objects: list[ObjectRecord]


class BadAnnotation(NamedTuple):
    """An invalid annotation, which is left out, and the reason."""

    file: str
    id: int
    image: str
    error: str


class ImageRecords(Sequence[ImageRecord]):
    """The images of a split.

    Args:
        packed: all images of the annotation file.
        selected: indices of the split's images in ``packed``.
    """

    def __init__(self, packed: PackedList, selected: NDArray[np.int64]) -> None:
        self._packed = packed
        self._selected = selected

    def __len__(self) -> int:
        return len(self._selected)

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]
        image_id, height, width, objects = self._packed[int(self._selected[index])]
        records = [
            ObjectRecord(tuple(box), label, segmentation) for box, label, segmentation in objects
        ]
        return ImageRecord(image_id, height, width, records)


@dataclass(frozen=True)
class CocoAnnotations:
    """The annotations of a split.

    Attributes:
        paths: the images' names; the "line" of each is its position in the file's list, from 1.
        images: in the same order.
        is_wide: whether each image is at least as wide as high.
        class_names: in the order of labels, without the background.
        category_ids: the file's ids of the same classes.
        bad: invalid annotations, which are left out.
        num_without_objects: number of images that are left out because they have no objects.
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
        num_classes: required number of categories.
        only_with_objects: leave out images without objects, as training does.
        cache_folder: keeps the parsed content, so that all processes and stages of a run parse a
            file once; None: no cache.

    Raises:
        UserError: the file cannot be read, or does not follow COCO's format; the message names the
            entry.
    """
    path = Path(path)
    parse = partial(parse_file, path, num_classes=num_classes)
    content = _load_or_parse(path, parse, folder=cache_folder) if cache_folder else parse()
    check_num_classes(path, len(content.categories), num_classes=num_classes)
    return _select(path, content, only_with_objects=only_with_objects)


def _load_or_parse(path: Path, parse: Callable[[], ParsedFile], *, folder: Path) -> ParsedFile:
    """Load an annotation file from the cache folder, after parsing it if it is not there.

    A file whose size or time has changed is parsed again. If several processes need it at the
    same time, one of them parses it and the others wait.
    """
    try:
        status = path.stat()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # Parsing explains a missing annotation file, and the run explains a read-only folder.
        return parse()
    source = f"{_CACHE_VERSION} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    key = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    cached = folder / f"{path.stem}-{key}.safetensors"
    if not cached.is_file():
        with file_lock(str(cached)):
            if not cached.is_file():
                _write_cache(cached, parse())
    return _read_cache(cached)


def _write_cache(cached: Path, content: ParsedFile) -> None:
    lists, images = content[:-1], content.images
    head = json.dumps(dict(zip(ParsedFile._fields, lists, strict=False))).encode("ascii")
    arrays: dict[str, np.ndarray] = {"text": images.text, "ends": images.ends}
    arrays["head"] = np.frombuffer(head, np.uint8)
    # Renamed at the end, because the process may be killed while it writes.
    unfinished = cached.with_suffix(f".{os.getpid()}")
    save_file(arrays, unfinished)
    unfinished.replace(cached)


def _read_cache(cached: Path) -> ParsedFile:
    # safetensors.torch maps the file into memory, safetensors.numpy copies it.
    arrays = {name: value.numpy() for name, value in load_file(cached).items()}
    head = json.loads(arrays["head"].tobytes())
    return ParsedFile(**head, images=PackedList(arrays["text"], arrays["ends"]))


def _select(path: Path, content: ParsedFile, *, only_with_objects: bool) -> CocoAnnotations:
    num_images = len(content.names)
    selected = np.arange(num_images)
    if only_with_objects:
        (selected,) = np.nonzero(np.array(content.num_objects))
    if not len(selected):
        raise UserError(f"{path} has no images{' with objects' if num_images else ''}")
    # The label is unused: labels belong to objects, not to images.
    entries = [Entry(index + 1, content.names[index], 0) for index in selected.tolist()]
    return CocoAnnotations(
        paths=LabeledPaths(path, entries, unit="image", items="images"),
        images=ImageRecords(content.images, selected),
        is_wide=np.array(content.is_wide, bool)[selected],
        class_names=tuple(name for _, name in content.categories),
        category_ids=tuple(category_id for category_id, _ in content.categories),
        bad=tuple(BadAnnotation(str(path), *bad) for bad in content.bad),
        num_without_objects=num_images - len(selected),
    )


def check_budget(bad: Sequence[BadAnnotation], *, max_bad: int) -> None:
    """Check the number of bad annotations.

    Raises:
        UserError: there are more than ``max_bad``.
    """
    if len(bad) > max_bad:
        named = "; ".join(f"{each.id} of {each.image}: {each.error}" for each in bad[:_MAX_NAMED])
        more = ", ..." if len(bad) > _MAX_NAMED else ""
        raise UserError(
            f"{len(bad)} annotations of {bad[0].file} are invalid ({named}{more}), and "
            f"DETECTION.MAX_BAD_ANNOTATIONS is {max_bad}: fix them, or raise the limit"
        )


def write_bad_annotations(file: Path, bad: Sequence[BadAnnotation]) -> None:
    """Write bad annotations as a CSV file for pandas, keeping the lines of other splits."""
    sources = {each.file for each in bad}
    others = [each for each in _read_bad_annotations(file) if each.file not in sources]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(BadAnnotation._fields)
        writer.writerows([*others, *bad])


def _read_bad_annotations(file: Path) -> list[BadAnnotation]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))[1:]
    return [BadAnnotation(source, int(number), *rest) for source, number, *rest in rows]
