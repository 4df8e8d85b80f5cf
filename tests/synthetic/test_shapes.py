"""The shapes data set: reproducible files, and annotations that match the images."""

import numpy as np
import pytest
from PIL import Image

from stvit_video.data.coco.annotations import read_annotations
from stvit_video.data.coco.dataset import decode_mask
from stvit_video.errors import UserError
from stvit_video.synthetic.shapes import CLASSES, ShapesRecipe, draw_shapes, make_shapes_dataset

RECIPE = ShapesRecipe(train=6, val=2, test=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "shapes"
    assert make_shapes_dataset(folder, RECIPE, num_workers=1)
    return folder


def test_annotations_match_the_images(folder):
    for split, number in (("train", 6), ("val", 2), ("test", 3)):
        file = folder / "annotations" / f"instances_{split}.json"
        found = read_annotations(file, num_classes=len(CLASSES))
        assert found.class_names == CLASSES
        assert len(found.images) == number and not found.bad
        for (name, _), image in zip(found.paths, found.images, strict=True):
            size = (image.height, image.width)
            assert np.asarray(Image.open(folder / split / name)).shape == (*size, 3)
            assert 2 <= len(image.objects) <= 5
            seen = np.zeros(size)
            for each in image.objects:
                mask = decode_mask(each.segmentation, height=size[0], width=size[1]).numpy()
                rows, columns = np.nonzero(mask)
                edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert each.box == edges
                seen += mask
            # Masks do not overlap.
            assert seen.max() == 1


def test_the_same_recipe_gives_the_same_images(folder, tmp_path):
    assert not make_shapes_dataset(folder, RECIPE, num_workers=1)
    again = tmp_path / "again"
    make_shapes_dataset(again, RECIPE, num_workers=2)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 6 + 2 + 3 + 3 + 1
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)
    with pytest.raises(UserError, match="contains something else than this shapes data set"):
        make_shapes_dataset(folder, ShapesRecipe(seed=1, train=6, val=2, test=3), num_workers=1)


def test_shapes_partly_hide_each_other():
    """A partly hidden disc has less area than a whole disc in its box."""
    hidden = 0
    for seed in range(30):
        image, shapes = draw_shapes(np.random.default_rng(seed))
        assert image.dtype == np.uint8 and image.std() > 10
        for label, mask in shapes:
            rows, columns = np.nonzero(mask)
            box = (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min())
            hidden += CLASSES[label] == "disc" and mask.sum() < 0.7 * box
            assert mask.sum() > 30
    assert hidden > 3
