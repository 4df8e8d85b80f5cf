"""Reading COCO annotation files: objects, invalid annotations, errors, masks and the cache."""

import json

import numpy as np
import pandas as pd
import pytest
from coco_folder import content, square, write
from pycocotools import mask as coco_mask

from stvit_video.data.coco import annotation_file
from stvit_video.data.coco.annotation_file import PackedList
from stvit_video.data.coco.annotations import (
    BadAnnotation,
    check_budget,
    read_annotations,
    write_bad_annotations,
)
from stvit_video.data.coco.dataset import decode_mask, encode_mask
from stvit_video.errors import UserError


@pytest.fixture
def annotated(tmp_path):
    """Return a function that adds annotations to those of the folder, and reads all of them."""

    def read(*annotations, **options):
        what = content()
        what["annotations"] += annotations
        return read_annotations(write(tmp_path, "train", what), num_classes=3, **options)

    return read


def test_labels_follow_the_order_of_category_ids(annotated):
    found = annotated()
    assert found.class_names == ("bar", "disc", "box")
    assert found.category_ids == (1, 7, 90)
    assert found.paths[1] == ("11.png", 0)
    first, second = found.images[0], found.images[1]
    assert (first.id, first.height, first.width) == (10, 40, 60)
    assert [each.label for each in second.objects] == [1, 3]
    assert second.objects[0].box == (5, 6, 21, 22)
    assert not found.bad


def test_training_leaves_out_images_without_objects(annotated):
    everything, training = annotated(), annotated(only_with_objects=True)
    assert (len(everything.paths), len(training.paths)) == (9, 8)
    assert (everything.num_without_objects, training.num_without_objects) == (0, 1)
    # The last image keeps its position in the file.
    assert training.paths.location(7).endswith("instances_train.json, image 9")
    assert training.images[7].id == 18


def test_crowds_are_not_objects(annotated):
    crowd = {**square(17, 999, left=0, top=0, side=8), "iscrowd": 1}
    found = annotated(crowd)
    assert [len(image.objects) for image in found.images][7] == 0
    assert not found.bad


RLE = {"counts": [0, 2400], "size": [40, 60]}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"bbox": [3, 3, 0, 5]}, "its box is 0 pixels wide and 5 high"),
        ({"bbox": [3, 3, 5, -1.5]}, "its box is 5 pixels wide and -1.5 high"),
        ({"bbox": [60, 3, 5, 5]}, "its box lies outside the image"),
        ({"segmentation": []}, "its mask is empty"),
        ({"segmentation": [[1, 1, 5, 5]]}, "its mask has a polygon of fewer than 3 points"),
        (
            {"segmentation": {**RLE, "size": [60, 40]}},
            "its mask has the size [60, 40], not that of the image",
        ),
    ],
)
def test_invalid_annotations_are_left_out_and_listed(annotated, tmp_path, changed, error):
    found = annotated({**square(17, 999, left=3, top=3, side=8), **changed})
    (bad,) = found.bad
    file = str(tmp_path / "annotations" / "instances_train.json")
    assert bad == BadAnnotation(file, 999, "17.png", error)
    assert not found.images[7].objects
    listed = tmp_path / "run" / "left_out.csv"
    other = BadAnnotation("other.json", 1, "1.jpg", "its mask is empty")
    write_bad_annotations(listed, [other])
    for _ in range(2):  # a resumed run lists nothing twice
        write_bad_annotations(listed, found.bad)
    assert pd.read_csv(listed).to_numpy().tolist() == [list(other), list(bad)]
    check_budget(found.bad, max_bad=1)
    with pytest.raises(
        UserError, match=r"1 annotations of .*999 of 17\.png: its .*_ANNOTATIONS is 0"
    ):
        check_budget(found.bad, max_bad=0)


def test_a_run_length_encoding_is_kept(annotated):
    found = annotated({**square(17, 999, left=3, top=3, side=8), "segmentation": RLE})
    assert found.images[7].objects[0].segmentation == RLE


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda c: c.pop("images"), 'must contain an object with a list "images"'),
        (lambda c: c["images"][2].pop("id"), r"images\[2\]: it must be an object with an integer"),
        (
            lambda c: c["images"][2].update(id=10),
            r"images\[2\] \(id 10\): duplicate id",
        ),
        (
            lambda c: c["images"][2].update(width="9"),
            r"images\[2\] \(id 12\): its \"width\" must be",
        ),
        (
            lambda c: c["images"][2].pop("file_name"),
            r"images\[2\] \(id 12\): it must have a \"file_name\"",
        ),
        (
            lambda c: c["categories"][0].pop("name"),
            r"categories\[0\] \(id 7\): it must have a \"name\"",
        ),
        (lambda c: c["categories"].pop(), "has 2 categories, but MODEL.NUM_CLASSES is 3"),
        (
            lambda c: c["annotations"][1].update(image_id=99),
            r"annotations\[1\] \(id 101\): its \"image_id\" 99 does not exist",
        ),
        (
            lambda c: c["annotations"][1].update(category_id=2),
            r"annotations\[1\] \(id 101\): its \"category_id\" 2 does not exist",
        ),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, 3]),
            r"annotations\[1\] \(id 101\): its \"bbox\" must be \[left, top, width, height\]",
        ),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, 3, float("nan")]),
            r"annotations\[1\] \(id 101\): its \"bbox\" must be",
        ),
        (
            lambda c: c["annotations"][1].pop("segmentation"),
            r"annotations\[1\] \(id 101\): its \"segmentation\" must be",
        ),
        (lambda c: c.update(images=[], annotations=[]), "has no images"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_entry(tmp_path, corrupt, message):
    what = json.loads(json.dumps(content()))
    path = write(tmp_path, "train", what)
    corrupt(what)
    path.write_text(json.dumps(what))
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(path, num_classes=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_an_error_with_the_position(tmp_path):
    path = write(tmp_path, "train", content())
    path.write_text(json.dumps(content(), indent=1)[:400])
    with pytest.raises(
        UserError, match=r"instances_train\.json, line \d+, column \d+: invalid JSON"
    ):
        read_annotations(path, num_classes=3)
    path.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(UserError, match=r"instances_train\.json, byte 12: invalid JSON"):
        read_annotations(path, num_classes=3)
    with pytest.raises(UserError, match=r"cannot read .*none\.json \(No such file or directory\)"):
        read_annotations(tmp_path / "none.json", num_classes=3)


def test_masks_match_pycocotools():
    triangle = [[2, 1, 2, 9, 12, 9]]
    drawn = decode_mask(triangle, height=12, width=16)
    assert drawn.shape == (12, 16)
    assert 30 < drawn.sum() < 60
    assert drawn[8, 3] == 1 and drawn[2, 10] == 0
    encoded = encode_mask(drawn)
    assert json.loads(json.dumps(encoded)) == encoded
    np.testing.assert_array_equal(coco_mask.decode(encoded), drawn)
    np.testing.assert_array_equal(decode_mask(encoded, height=12, width=16), drawn)
    counts = {"counts": [0, 3, 12 * 16 - 3], "size": [12, 16]}
    assert decode_mask(counts, height=12, width=16)[:4, 0].tolist() == [1, 1, 1, 0]


def test_a_packed_list_returns_its_items():
    items = [{"a": [1, 2]}, None, ["b", 3.5, 0.1]]
    packed = PackedList.pack(items)
    assert len(packed) == 3
    assert [packed[index] for index in range(3)] == items


def test_a_file_is_parsed_once_and_cached_until_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path, "train", content())
    parsed = []
    real = annotation_file._load_json
    monkeypatch.setattr(
        annotation_file, "_load_json", lambda path: parsed.append(path) or real(path)
    )
    options = {"num_classes": 3, "cache_folder": tmp_path / "cache"}
    plain = read_annotations(path, num_classes=3)
    for _ in range(2):
        found = read_annotations(path, **options)
        assert list(found.images) == list(plain.images)
        assert list(found.paths) == list(plain.paths)
        assert (found.class_names, found.category_ids, found.bad) == (
            plain.class_names,
            plain.category_ids,
            plain.bad,
        )
        assert found.is_wide.tolist() == plain.is_wide.tolist()
    training = read_annotations(path, **options, only_with_objects=True)
    assert [image.id for image in training.images] == [10, 11, 12, 13, 14, 15, 16, 18]
    assert len(parsed) == 2
    with pytest.raises(UserError, match="has 3 categories, but"):
        read_annotations(path, **{**options, "num_classes": 4})
    changed = content()
    changed["annotations"][0]["segmentation"] = []
    path.write_text(json.dumps(changed))
    assert [bad.id for bad in read_annotations(path, **options).bad] == [1]
    assert len(parsed) == 3


def test_a_malformed_file_is_not_cached(tmp_path):
    path = write(tmp_path, "train", content())
    path.write_text(path.read_text()[:-1])
    for _ in range(2):
        with pytest.raises(UserError, match="invalid JSON"):
            read_annotations(path, num_classes=3, cache_folder=tmp_path / "cache")
