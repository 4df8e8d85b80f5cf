"""COCO's annotations of a split, in little memory that processes share."""

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

from stvit_video.data.coco.annotation_file import FileContent, PackedList, check_classes, parse_file
from stvit_video.data.labeled_paths import Entry, LabeledPaths
from stvit_video.errors import UserError

# To be raised when the same annotation file is to give another content.
_VERSION = 1


def load_or_parse(path: Path, parse: Callable[[], FileContent], *, folder: Path) -> FileContent:
    """Load what a folder keeps of an annotation file, after parsing it if that is nothing.

    A file that has changed since, in size or time, is parsed again. Of processes that come
    together one parses, and the others wait.
    """
    try:
        status = path.stat()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # No annotation file, of which parsing tells more, or a folder that cannot be written, of
        # which the run tells more.
        return parse()
    what = f"{_VERSION} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    kept = folder / f"{path.stem}-{key}.safetensors"
    if not kept.is_file():
        with file_lock(str(kept)):
            if not kept.is_file():
                _write(kept, parse())
    return _read(kept)


def _write(kept: Path, content: FileContent) -> None:
    listed, images = content[:-1], content.images
    head = json.dumps(dict(zip(FileContent._fields, listed, strict=False))).encode("ascii")
    arrays: dict[str, np.ndarray] = {"text": images.text, "ends": images.ends}
    arrays["head"] = np.frombuffer(head, np.uint8)
    # Under another name first, as a process may be killed here.
    unfinished = kept.with_suffix(f".{os.getpid()}")
    save_file(arrays, unfinished)
    unfinished.replace(kept)


def _read(kept: Path) -> FileContent:
    # torch's reader maps the file, NumPy's copies it.
    arrays = {name: value.numpy() for name, value in load_file(kept).items()}
    head = json.loads(arrays["head"].tobytes())
    return FileContent(**head, images=PackedList(arrays["text"], arrays["ends"]))


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


# Bad annotations that are named when there are too many of them.
_NAMED = 3


def write_left_out(file: Path, bad: Sequence[BadAnnotation]) -> None:
    """Write annotations as a CSV file that pandas reads; lines of other splits stay in it."""
    files = {each.file for each in bad}
    others = [each for each in _read_left_out(file) if each.file not in files]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(BadAnnotation._fields)
        writer.writerows([*others, *bad])


def check_budget(bad: Sequence[BadAnnotation], *, max_bad: int) -> None:
    """Check that not too many annotations are left out.

    Raises:
        UserError: they are more than ``max_bad``.
    """
    if len(bad) > max_bad:
        named = "; ".join(f"{each.id} of {each.image}: {each.error}" for each in bad[:_NAMED])
        more = ", ..." if len(bad) > _NAMED else ""
        raise UserError(
            f"{len(bad)} annotations of {bad[0].file} describe no object ({named}{more}), and "
            f"DETECTION.MAX_BAD_ANNOTATIONS is {max_bad}: mend them, or raise it"
        )


def _read_left_out(file: Path) -> list[BadAnnotation]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))[1:]
    return [BadAnnotation(source, int(number), *rest) for source, number, *rest in rows]
