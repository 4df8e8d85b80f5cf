"""Parse and check COCO's annotation files."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from stvit_video.errors import UserError


class PackedList(Sequence[Any]):
    """A list that is read only, and that processes share.

    As Python objects, the objects of COCO's 118,000 images would be copied into every worker
    process one by one, as their reference counts change. The bytes may also lie in a file that is
    mapped into memory, which then is there once for all processes of a machine.

    Args:
        text: all items as JSON, one behind the other.
        ends: where each of them ends, int64.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, items: Iterable[Any]) -> "PackedList":
        """Pack items of which JSON keeps everything: numbers, text, lists, dicts, None."""
        text, ends = bytearray(), []
        for item in items:
            text += json.dumps(item, separators=(",", ":")).encode("ascii")
            ends.append(len(text))
        return cls(np.frombuffer(text, np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        assert isinstance(index, int), "one item at a time"
        begin = self.ends[index - 1] if index else 0
        return json.loads(self.text[begin : self.ends[index]].tobytes())


# Box (left, top, right, bottom), label and mask of an object.
_Object = tuple[tuple[float, float, float, float], int, Any]


class FileContent(NamedTuple):
    """What is needed of an annotation file, in its order.

    Attributes:
        names: of the images.
        is_wide: whether each image is at least as wide as high.
        num_objects: of each image, without crowds and what cannot be used.
        categories: (number, name), by their numbers.
        bad: (number, image, error) of annotations that are left out.
        images: [number, height, width, objects], and each object [box, label, mask].
    """

    names: list[str]
    is_wide: list[bool]
    num_objects: list[int]
    categories: list[tuple[int, str]]
    bad: list[tuple[int, str, str]]
    images: PackedList


def parse_file(path: Path, *, num_classes: int) -> FileContent:
    """Parse and check a file.

    Raises:
        UserError: it cannot be read, or is not what COCO's files are; the message names the place.
    """
    content = _parse(path)
    images = _by_id(content["images"], path, "images", _check_image)
    categories = _by_id(content["categories"], path, "categories", _check_category)
    check_classes(path, len(categories), num_classes=num_classes)
    objects, bad = _objects(content["annotations"], path, images=images, categories=categories)
    return FileContent(
        names=[image["file_name"] for image in images.values()],
        is_wide=[image["width"] >= image["height"] for image in images.values()],
        num_objects=[len(objects[number]) for number in images],
        categories=[(number, categories[number]["name"]) for number in sorted(categories)],
        bad=bad,
        images=PackedList.of(
            [number, image["height"], image["width"], objects[number]]
            for number, image in images.items()
        ),
    )


def check_classes(path: Path, number: int, *, num_classes: int) -> None:
    """Check that a file has as many categories as the model has classes.

    Raises:
        UserError: it has not.
    """
    if number != num_classes:
        raise UserError(
            f"{path} has {number} categories, but MODEL.NUM_CLASSES is {num_classes}: "
            "change one of them"
        )


def _objects(
    annotations: list, path: Path, *, images: Mapping[int, dict], categories: Mapping[int, dict]
) -> tuple[dict[int, list[_Object]], list[tuple[int, str, str]]]:
    """Give the objects of each image by its id, and the annotations that describe none."""
    labels = {number: label for label, number in enumerate(sorted(categories), start=1)}
    objects: dict[int, list[_Object]] = {number: [] for number in images}
    bad = []
    for place, annotation in _entries(annotations, path, "annotations"):
        _check_annotation(annotation, place, images=images, labels=labels)
        if annotation.get("iscrowd"):
            continue  # a crowd is no object to learn; the evaluation knows it by the file itself
        image = images[annotation["image_id"]]
        error = _defect(annotation, image)
        if error:
            bad.append((annotation["id"], image["file_name"], error))
            continue
        left, top, width, height = annotation["bbox"]
        box = (left, top, left + width, top + height)
        found = (box, labels[annotation["category_id"]], annotation["segmentation"])
        objects[annotation["image_id"]].append(found)
    return objects, bad


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): set DATA.PATH_TO_DATA_DIR to a folder with "
            "annotations/instances_NAME.json and the images NAME/*.jpg for each of "
            "DETECTION.SPLITS, or try tools/make_shapes.py, which makes one"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: this is no JSON ({error.msg}); "
            "copy the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, byte {error.start}: this is no JSON, but no text either; copy the file again"
        ) from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f'{path} must hold an object with a list "{name}", as COCO\'s files do')
    return content


def _entries(entries: list, path: Path, name: str) -> Iterator[tuple[str, dict]]:
    """Give each entry of a list and its place, for messages."""
    for index, entry in enumerate(entries):
        place = f"{path}, {name}[{index}]"
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise UserError(f'{place}: it must be an object with a whole number "id"')
        yield f"{place} (id {entry['id']})", entry


def _by_id(
    entries: list, path: Path, name: str, check: Callable[[dict, str], None]
) -> dict[int, dict]:
    found: dict[int, dict] = {}
    for place, entry in _entries(entries, path, name):
        if entry["id"] in found:
            raise UserError(f"{place}: another one has the same id; give each its own")
        check(entry, place)
        found[entry["id"]] = entry
    return found


def _check_image(image: dict, place: str) -> None:
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise UserError(f'{place}: it must have a "file_name"')
    for side in ("height", "width"):
        if type(image.get(side)) is not int or image[side] < 1:
            raise UserError(
                f'{place}: its "{side}" must be a whole number above 0, not {image.get(side)!r}'
            )


def _check_category(category: dict, place: str) -> None:
    if not isinstance(category.get("name"), str):
        raise UserError(f'{place}: it must have a "name"')


def _check_annotation(
    annotation: dict, place: str, *, images: Mapping[int, dict], labels: Mapping[int, int]
) -> None:
    for key, known in (("image_id", images), ("category_id", labels)):
        if annotation.get(key) not in known:
            raise UserError(f'{place}: there is nothing with its "{key}", {annotation.get(key)!r}')
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise UserError(
            f'{place}: its "bbox" must be [left, top, width, height] in numbers, not {box!r:.60}'
        )
    if not isinstance(annotation.get("segmentation"), list | dict):
        raise UserError(
            f'{place}: its "segmentation" must be a list of polygons or a run-length encoding'
        )


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _defect(annotation: dict, image: dict) -> str:
    """Say why an annotation describes no object, or nothing if it does."""
    left, top, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        return f"its box is {width:g} pixels wide and {height:g} high"
    inside_width = min(left + width, image["width"]) - max(left, 0)
    inside_height = min(top + height, image["height"]) - max(top, 0)
    if inside_width <= 0 or inside_height <= 0:
        return "its box lies outside of the image"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if "counts" not in segmentation or size != [image["height"], image["width"]]:
            return f"its mask is of the size {size}, not of the image's"
    elif not segmentation:
        return "its mask is empty"
    elif not all(_is_polygon(polygon) for polygon in segmentation):
        return "its mask has a polygon of fewer than 3 points"
    return ""


def _is_polygon(polygon: object) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(map(_is_finite, polygon))
    )
