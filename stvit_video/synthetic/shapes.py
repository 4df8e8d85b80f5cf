"""Generate the shapes data set: overlapping colored shapes on textured backgrounds.

It has COCO's layout and format. H x W is the size of an image.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stvit_video.data.coco.dataset import encode_mask, require_pycocotools
from stvit_video.synthetic.folder import make_folder_atomically
from stvit_video.synthetic.motion import SHAPES, TEXTURES

# Without the diamond, which is a rotated square.
CLASSES = ("disc", "square", "cross", "ring")

# Increase when the same seed gives different images.
_VERSION = 1
# Range of the sides of an image, in pixels.
_SIDES = (96, 128)
# Range of the number of shapes in an image.
_NUM_SHAPES = (2, 5)
# Range of the radius in pixels, and largest rotation in radians.
_RADIUS = (10.0, 28.0)
_MAX_ANGLE = 0.35
# A new shape must leave at least this share of each earlier one visible.
_MIN_VISIBLE = 0.4
_MAX_ATTEMPTS = 20
_NOISE_STD = 12.0


@dataclass(frozen=True)
class ShapesRecipe:
    """Parameters that determine a shapes data set.

    Attributes:
        seed: of all random choices, which are independent between splits.
        train: number of images of the training split.
        val: number of images of the validation split.
        test: number of images of the test split.
    """

    seed: int = 0
    train: int = 800
    val: int = 40
    test: int = 160


def make_shapes_dataset(folder: str | Path, recipe: ShapesRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` already contains it.

    Args:
        folder: ``annotations/instances_SPLIT.json`` and the images ``SPLIT/*.png`` of the splits
            train, val and test are written to it.
        recipe: the same recipe gives the same images.
        num_workers: worker processes.

    Returns:
        Whether the data set was written.

    Raises:
        UserError: ``folder`` contains something else, or pycocotools is not installed.
    """
    require_pycocotools()
    description = {"dataset": "shapes", "version": _VERSION, **asdict(recipe)}
    write = partial(_write_splits, recipe=recipe, num_workers=num_workers)
    return make_folder_atomically(Path(folder), description, write)


def _write_splits(folder: Path, recipe: ShapesRecipe, *, num_workers: int) -> None:
    (folder / "annotations").mkdir()
    with ProcessPoolExecutor(num_workers) as pool:
        for number, split in enumerate(("train", "val", "test")):
            (folder / split).mkdir()
            write = partial(_write_image, folder / split, seed=(recipe.seed, number))
            images = list(pool.map(write, range(getattr(recipe, split)), chunksize=8))
            file = folder / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(_annotations(images)))


def draw_shapes(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[int, Any]]]:
    """Draw an image.

    Returns:
        RGB, uint8 [H, W, 3], and for each shape its class, from 0, and the mask of its visible
        part, bool [H, W].
    """
    height, width = rng.integers(_SIDES[0], _SIDES[1] + 1, size=2)
    image = _textured(*np.mgrid[:height, :width] / 12.0, rng=rng, brightness=(20, 130))
    shapes: list[tuple[int, Any]] = []
    full_areas: list[int] = []
    number = rng.integers(_NUM_SHAPES[0], _NUM_SHAPES[1] + 1)
    for _ in range(_MAX_ATTEMPTS):
        if len(shapes) == number:
            break
        label = int(rng.integers(len(CLASSES)))
        u, v = _coordinates(height, width, rng=rng)
        mask = SHAPES[CLASSES[label]](u, v) > 0
        visible_areas = [(other & ~mask).sum() for _, other in shapes]
        hides_too_much = any(
            visible < _MIN_VISIBLE * full
            for visible, full in zip(visible_areas, full_areas, strict=True)
        )
        if hides_too_much or not mask.any():
            continue
        image[mask] = _textured(u, v, rng=rng, brightness=(110, 255))[mask]
        shapes = [(earlier, other & ~mask) for earlier, other in shapes] + [(label, mask)]
        full_areas.append(int(mask.sum()))
    image += rng.normal(0, _NOISE_STD, image.shape)
    return image.clip(0, 255).astype(np.uint8), shapes


def _coordinates(
    height: int, width: int, *, rng: np.random.Generator
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Place a shape; return each pixel's coordinates [H, W] in its rotated frame, in radii."""
    radius, angle = rng.uniform(*_RADIUS), rng.uniform(-_MAX_ANGLE, _MAX_ANGLE)
    # The whole shape lies in the image.
    row, column = (rng.uniform(radius, side - radius) for side in (height, width))
    rows, columns = np.mgrid[:height, :width]
    down, right = (rows + 0.5 - row) / radius, (columns + 0.5 - column) / radius
    return (
        np.cos(angle) * right + np.sin(angle) * down,
        np.cos(angle) * down - np.sin(angle) * right,
    )


def _textured(
    u: NDArray[np.floating[Any]],
    v: NDArray[np.floating[Any]],
    *,
    rng: np.random.Generator,
    brightness: tuple[int, int],
) -> NDArray[np.floating[Any]]:
    """Draw a texture of two similar colors, [H, W, 3]."""
    texture = TEXTURES[str(rng.choice(list(TEXTURES)))]
    color = rng.uniform(*brightness, size=3)
    other = color + rng.uniform(-30, 30, size=3)
    mix = np.clip(texture(u, v), 0, 1)[..., None]
    return color + mix * (other - color)


def _write_image(folder: Path, index: int, *, seed: tuple[int, int]) -> dict[str, Any]:
    """Write an image; return its entry of the annotation file, with its objects."""
    image, shapes = draw_shapes(np.random.default_rng((*seed, index)))
    name = f"{index:05d}.png"
    Image.fromarray(image).save(folder / name)
    height, width = image.shape[:2]
    entry = {"id": index + 1, "file_name": name, "height": height, "width": width}
    return {**entry, "objects": [_object(label, mask) for label, mask in shapes]}


def _object(label: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    (rows,), (columns,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": label + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": encode_mask(torch.from_numpy(mask)),
    }


def _annotations(images: list[dict[str, Any]]) -> dict[str, Any]:
    objects = [{**each, "image_id": image["id"]} for image in images for each in image["objects"]]
    return {
        "images": [{k: v for k, v in image.items() if k != "objects"} for image in images],
        "annotations": [{"id": number, **each} for number, each in enumerate(objects, start=1)],
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)
        ],
    }
