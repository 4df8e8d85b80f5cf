"""Checking a data set in COCO's layout, from the command line to the output files."""

import json

import check_data
import pandas as pd
import pytest
from coco_folder import content, square, write, write_folder

CONFIG = """
TRAIN: {DATASET: coco}
TEST: {DATASET: coco}
DATA: {NUM_FRAMES: 1}
MODEL: {ARCH: cascade_mask_rcnn, NUM_CLASSES: 3}
SWIN: {PATCH_SIZE: [1, 4, 4], WINDOW_SIZE: [1, 7, 7]}
DETECTION: {SPLITS: [train, val, test]}
"""


@pytest.fixture
def check(tmp_path, capsys):
    """Return a function that runs the check: exit status, report, output folder."""
    config = tmp_path / "coco.yaml"
    config.write_text(CONFIG)
    output = tmp_path / "out"
    arguments = ["--cfg", str(config), "--output", str(output), "--workers", "1"]
    arguments += ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "data")]
    return lambda: (check_data.main(arguments), capsys.readouterr().out, output)


def test_a_clean_data_set_has_exit_status_0(check, tmp_path):
    write_folder(tmp_path / "data")
    status, report, output = check()
    assert (status, "No problems were found." in report) == (0, True)
    table = pd.read_csv(output / "statistics.csv", index_col=0)
    assert list(table) == ["train", "val", "test"]
    assert table.train["images"] == 9
    assert table.train["without objects"] == 1
    assert table.train["unreadable"] == table.train["annotations of no object"] == 0


def test_all_problems_are_reported(check, tmp_path):
    data = tmp_path / "data"
    write_folder(data)
    what = content()
    write(data, "train", what)
    (data / "train" / "11.png").unlink()
    (data / "train" / "12.png").write_bytes(b"no image")
    (data / "train" / "10.png").write_bytes((data / "train" / "13.png").read_bytes())
    flat = square(17, 900, left=3, top=3, side=8) | {"bbox": [3, 3, 0, 5]}
    empty = square(17, 901, left=3, top=3, side=8)
    empty["segmentation"] = {"counts": [40 * 60], "size": [40, 60]}
    damaged = square(17, 902, left=3, top=3, side=8)
    damaged["segmentation"] = {"counts": [0, 9999], "size": [40, 60]}
    what["annotations"] += [flat, empty, damaged]
    what["images"].append({**what["images"][8], "id": 99})
    (data / "annotations" / "instances_train.json").write_text(json.dumps(what))
    what["annotations"][0]["category_id"] = 5
    (data / "annotations" / "instances_val.json").write_text(json.dumps(what))

    status, report, output = check()
    assert status == 1
    problems = (output / "problems.txt").read_text()
    for text in (
        'instances_val.json, annotations[0] (id 1): its "category_id" 5 does not exist',
        "instances_train.json, id 900, 17.png: its box is 0 pixels wide and 5 high",
        "17.png: object 1 of the image: its mask has no pixels",
        "17.png: object 2 of the image: its mask is damaged",
        "it is 44 x 60 pixels, but its annotations are for 60 x 40",
        "No such file",
        "Pillow cannot identify the image",
        "image 10: ",
    ):
        assert text in problems, text
    assert problems.count("\n") == 8
    assert "3 of kind annotation:" in report
    bad_video_log = pd.read_csv(output / "quarantine.csv")
    assert bad_video_log["path"].tolist() == ["10.png", "11.png", "12.png"]
    assert len(pd.read_csv(output / "annotations_left_out.csv")) == 3
