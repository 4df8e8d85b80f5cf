"""Parse and validate COCO annotation files."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from stvit_video.errors import UserError


class PackedList(Sequence[Any]):
    """A read-only list that processes share.

    As Python objects, the annotations of COCO's 118,000 images would gradually be copied into
    every worker process, because their reference counts change. The bytes can also be a
    memory-mapped file, which all processes of a machine share.

    Args:
        text: all items as concatenated JSON.
        ends: end of each item in ``text``, int64.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def pack(cls, items: Iterable[Any]) -> "PackedList":
        """Pack items that JSON represents exactly: numbers, text, lists, dicts, None."""
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
        assert isinstance(index, int), "slices are not supported"
        begin = self.ends[index - 1] if index else 0
        return json.loads(self.text[begin : self.ends[index]].tobytes())


# Box (left, top, right, bottom), label and mask of an object.
_Object = tuple[tuple[float, float, float, float], int, Any]


class ParsedFile(NamedTuple):
    """The content of an annotation file, with images in the order of the file.

    Attributes:
        names: file name of each image.
        is_wide: whether each image is at least as wide as high.
        num_objects: valid objects of each image, without crowds.
        categories: (id, name), sorted by id.
        bad: (id, image, error) of invalid annotations, which are left out.
        images: [id, height, width, objects] of each image, with each object [box, label, mask].
    """

    names: list[str]
    is_wide: list[bool]
    num_objects: list[int]
    categories: list[tuple[int, str]]
    bad: list[tuple[int, str, str]]
    images: PackedList


def parse_file(path: Path, *, num_classes: int) -> ParsedFile:
    """Parse and validate an annotation file.

    Raises:
        UserError: the file cannot be read, or does not follow COCO's format; the message names
            the entry.
    """
    content = _load_json(path)
    images = _by_id(content["images"], path, "images", _check_image)
    categories = _by_id(content["categories"], path, "categories", _check_category)
    check_num_classes(path, len(categories), num_classes=num_classes)
    objects, bad = _objects(content["annotations"], path, images=images, categories=categories)
    return ParsedFile(
        names=[image["file_name"] for image in images.values()],
        is_wide=[image["width"] >= image["height"] for image in images.values()],
        num_objects=[len(objects[image_id]) for image_id in images],
        categories=[
            (category_id, categories[category_id]["name"]) for category_id in sorted(categories)
        ],
        bad=bad,
        images=PackedList.pack(
            [image_id, image["height"], image["width"], objects[image_id]]
            for image_id, image in images.items()
        ),
    )


def check_num_classes(path: Path, num_categories: int, *, num_classes: int) -> None:
    """Check that a file has as many categories as the model has classes.

    Raises:
        UserError: the numbers differ.
    """
    if num_categories != num_classes:
        raise UserError(
            f"{path} has {num_categories} categories, but MODEL.NUM_CLASSES is {num_classes}: "
            "change one of them"
        )


def _objects(
    annotations: list, path: Path, *, images: Mapping[int, dict], categories: Mapping[int, dict]
) -> tuple[dict[int, list[_Object]], list[tuple[int, str, str]]]:
    """Return the objects of each image by its id, and the invalid annotations."""
    labels = {category_id: label for label, category_id in enumerate(sorted(categories), start=1)}
    objects: dict[int, list[_Object]] = {image_id: [] for image_id in images}
    bad = []
    for place, annotation in _entries(annotations, path, "annotations"):
        _check_annotation(annotation, place, images=images, labels=labels)
        if annotation.get("iscrowd"):
            continue  # crowds are not trained on; the evaluation reads them from the file itself
        image = images[annotation["image_id"]]
        error = _defect(annotation, image)
        if error:
            bad.append((annotation["id"], image["file_name"], error))
            continue
        left, top, width, height = annotation["bbox"]
        box = (left, top, left + width, top + height)
        label = labels[annotation["category_id"]]
        objects[annotation["image_id"]].append((box, label, annotation["segmentation"]))
    return objects, bad


def _load_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): set DATA.PATH_TO_DATA_DIR to a folder with "
            "annotations/instances_NAME.json and the images NAME/*.jpg for each of "
            "DETECTION.SPLITS; tools/make_shapes.py generates an example"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: invalid JSON ({error.msg}); copy "
            "the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, byte {error.start}: invalid JSON (not UTF-8 text); copy the file again"
        ) from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f'{path} must contain an object with a list "{name}", as in COCO')
    return content


def _entries(entries: list, path: Path, name: str) -> Iterator[tuple[str, dict]]:
    """Yield each entry of a list with its location for messages."""
    for index, entry in enumerate(entries):
        place = f"{path}, {name}[{index}]"
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise UserError(f'{place}: it must be an object with an integer "id"')
        yield f"{place} (id {entry['id']})", entry


def _by_id(
    entries: list, path: Path, name: str, check: Callable[[dict, str], None]
) -> dict[int, dict]:
    by_id: dict[int, dict] = {}
    for place, entry in _entries(entries, path, name):
        if entry["id"] in by_id:
            raise UserError(f"{place}: duplicate id; give each entry an id of its own")
        check(entry, place)
        by_id[entry["id"]] = entry
    return by_id


def _check_image(image: dict, place: str) -> None:
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise UserError(f'{place}: it must have a "file_name"')
    for side in ("height", "width"):
        if type(image.get(side)) is not int or image[side] < 1:
            raise UserError(
                f'{place}: its "{side}" must be a positive integer, not {image.get(side)!r}'
            )


def _check_category(category: dict, place: str) -> None:
    if not isinstance(category.get("name"), str):
        raise UserError(f'{place}: it must have a "name"')


def _check_annotation(
    annotation: dict, place: str, *, images: Mapping[int, dict], labels: Mapping[int, int]
) -> None:
    for key, ids in (("image_id", images), ("category_id", labels)):
        if annotation.get(key) not in ids:
            raise UserError(f'{place}: its "{key}" {annotation.get(key)!r} does not exist')
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
    """Return why an annotation is invalid, or an empty string."""
    left, top, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        return f"its box is {width:g} pixels wide and {height:g} high"
    inside_width = min(left + width, image["width"]) - max(left, 0)
    inside_height = min(top + height, image["height"]) - max(top, 0)
    if inside_width <= 0 or inside_height <= 0:
        return "its box lies outside the image"
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if "counts" not in segmentation or size != [image["height"], image["width"]]:
            return f"its mask has the size {size}, not that of the image"
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
