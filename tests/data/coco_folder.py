"""A small data set in COCO's layout: three classes, wide and high images, one without objects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 1, "name": "bar"}, {"id": 90, "name": "box"}]
# (width, height) of images with the ids 10, 11, ...; the second to last has no objects.
SIZES = [(60, 40), (40, 60), (60, 44), (44, 60), (64, 40), (40, 64), (50, 50), (60, 40), (62, 40)]


def square(image_id, number, *, left, top, side, category=7):
    """An annotation of a square, its mask the lower left triangle of its box."""
    right, bottom = left + side, top + side
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [left, top, side, side],
        "area": side * side / 2,
        "iscrowd": 0,
        "segmentation": [[left, top, left, bottom, right, bottom]],
    }


def content(sizes=SIZES):
    """What an annotation file says."""
    images, annotations = [], []
    for index, (width, height) in enumerate(sizes):
        image_id = 10 + index
        name = f"{image_id}.png"
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for nth in range(0 if index == len(sizes) - 2 else 1 + index % 2):
            category = CATEGORIES[(index + nth) % 3]["id"]
            annotations.append(
                square(
                    image_id,
                    100 * index + nth + 1,
                    left=4 + index + 12 * nth,
                    top=6,
                    side=16,
                    category=category,
                )
            )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write(folder: Path, name: str, what) -> Path:
    """Write an annotation file, and an image of noise for each entry that has none yet."""
    path = folder / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))
    (folder / name).mkdir(exist_ok=True)
    for image in what["images"]:
        size = (image["height"], image["width"], 3)
        pixels = np.random.default_rng(image["id"]).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / image["file_name"])
    return path


def write_folder(folder: Path) -> Path:
    """Write a data set of the splits train, val and test."""
    for name, number in (("train", 9), ("val", 5), ("test", 7)):
        write(folder, name, content(SIZES[:number]))
    return folder
