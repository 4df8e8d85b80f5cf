"""Average precision of known results."""

import json

import pytest
from coco_folder import content, write

from stvit_video.engine.detection import average_precision, format_table

IMAGES = list(range(10, 19))


def truth_as_results(what):
    return [
        {key: each[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 0.9}
        for each in what["annotations"]
    ]


@pytest.fixture
def annotated(tmp_path):
    """An annotation file, and results that are the truth."""
    what = content()
    return write(tmp_path, "val", what), json.loads(json.dumps(truth_as_results(what)))


def with_encoded_masks(results):
    from pycocotools import mask

    sizes = {image["id"]: (image["height"], image["width"]) for image in content()["images"]}
    for result in results:
        encoded = mask.merge(mask.frPyObjects(result["segmentation"], *sizes[result["image_id"]]))
        result["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
    return results


def test_the_truth_has_100_percent(annotated):
    file, results = annotated
    measured = average_precision(file, with_encoded_masks(results), image_ids=IMAGES)
    # All objects are small.
    names = {f"{kind}_{key}" for kind in ("box", "mask") for key in ("AP", "AP50", "AP75", "APs")}
    assert measured == pytest.approx(dict.fromkeys(names, 100.0))
    table = format_table(measured).splitlines()
    assert table[1].split() == ["box", *["100.0"] * 4, "-", "-"]


def test_wrong_boxes_with_right_masks_cost_the_boxes_alone(annotated):
    file, results = annotated
    for result in with_encoded_masks(results):
        result["bbox"][0] += 40
    measured = average_precision(file, results, image_ids=IMAGES)
    assert measured["box_AP50"] == 0
    assert measured["mask_AP"] == pytest.approx(100)


def test_images_that_were_not_looked_at_do_not_count(annotated):
    file, results = annotated
    first = [each for each in with_encoded_masks(results) if each["image_id"] < 14]
    assert average_precision(file, first, image_ids=IMAGES)["box_AP"] < 90
    assert average_precision(file, first, image_ids=range(10, 14))["box_AP"] == pytest.approx(100)


def test_annotations_that_are_left_out_do_not_count(annotated, tmp_path):
    file, results = annotated
    what = content()
    # pycocotools cannot draw an empty mask.
    what["annotations"].append(
        {**what["annotations"][0], "id": 5000, "bbox": [1, 1, 0, 5], "segmentation": []}
    )
    file.write_text(json.dumps(what))
    measured = average_precision(
        file, with_encoded_masks(results), image_ids=IMAGES, left_out={5000}
    )
    assert measured["mask_AP"] == pytest.approx(100)


def test_finding_nothing_is_0_percent(annotated):
    file, _ = annotated
    measured = average_precision(file, [], image_ids=IMAGES)
    assert measured["box_AP"] == measured["mask_AP"] == 0
