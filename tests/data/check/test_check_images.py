"""Checking image folders with one subfolder per class, from the command line to the output."""

from pathlib import Path

import check_data
import pandas as pd
import pytest
import torch
from torchvision.io import write_jpeg

from stvit_video.data.imagenet import IMAGE_SUFFIXES

CONFIG = Path(__file__).resolve().parents[3] / "configs/imagenet/deit_t.yaml"


def write_images(folder, *, classes, count):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(256, (3, 20 + number, 30), dtype=torch.uint8)
            write_jpeg(pixels, str(folder / name / f"{number}.JPEG"))


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "data" / "train", classes="abc", count=3)
    write_images(tmp_path / "data" / "val", classes="abc", count=2)
    return tmp_path / "data"


@pytest.fixture
def check(data, tmp_path, capsys):
    """Return a function that runs the check: exit status, report and errors, output folder."""
    output = tmp_path / "out"
    arguments = ["--cfg", str(CONFIG), "--output", str(output), "--workers", "1"]
    arguments += ["DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", "3"]

    def run(*more):
        status = check_data.main([*arguments, *more])
        printed = capsys.readouterr()
        return status, printed.out + printed.err, output

    return run


def test_clean_folders_have_exit_status_0(check):
    status, report, output = check()
    assert (status, "No problems were found." in report) == (0, True)
    table = pd.read_csv(output / "statistics.csv", index_col=0)
    assert table.train.to_dict() == {
        "classes": 3,
        "images": 9,
        "unreadable": 0,
        "fewest of a class": 3,
        "most of a class": 3,
        "smallest short side": 20,
        "median short side": 21,
    }
    assert table.val["images"] == 6


def test_all_problems_are_reported(check, data):
    whole = (data / "train/b/1.JPEG").read_bytes()
    (data / "train/b/1.JPEG").write_bytes(whole[: len(whole) // 2])
    (data / "val/c/0.JPEG").write_bytes(b"no image")
    write_images(data / "train", classes="d", count=0)
    status, _, output = check()
    assert status == 1
    problems = (output / "problems.txt").read_text().splitlines()
    expected = (
        "train has 4 class folders, but MODEL.NUM_CLASSES is 3",
        "train/d is missing in another split",
        f"train/d has no images ({', '.join(IMAGE_SUFFIXES)})",
        "train, image 5: cannot read the image b/1.JPEG: ",
        "c/0.JPEG: Pillow cannot identify the image",
    )
    assert len(problems) == len(expected)
    assert all(part in line for part, line in zip(expected, problems, strict=True))
    assert list(pd.read_csv(output / "quarantine.csv").path) == ["b/1.JPEG", "c/0.JPEG"]


def test_ignored_files_are_reported(check, data):
    for name in ("a/1.heic", "a/notes.txt", "b/.DS_Store", "b/2.gif", "c/old"):
        (data / "train" / name).touch()
    (data / "val/b/nested").mkdir()
    status, report, output = check()
    train, val = (output / "problems.txt").read_text().splitlines()
    assert (status, "2 of kind ignored:" in report) == (1, True)
    suffixes = "(.jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp)"
    assert train == (
        f"{data}/train has 4 files or folders in its class folders that are ignored because their "
        f"names do not end in an image suffix {suffixes}: a/1.heic, a/notes.txt, b/2.gif and 1 "
        "more; convert or remove them"
    )
    assert f"{data}/val has 1 files" in val
    assert ": b/nested; convert" in val


def test_a_second_check_reads_only_changed_files(check, data):
    (data / "val/a/0.JPEG").write_bytes(b"no image")
    assert check()[0] == 1
    (data / "val/a/0.JPEG").write_bytes((data / "val/a/1.JPEG").read_bytes())
    journal = (check()[2] / "journal.jsonl").read_text().splitlines()
    assert len(journal) == 15 + 1


def test_a_wrong_folder_is_an_error(check, data):
    status, report, output = check("DATA.PATH_TO_DATA_DIR", str(data / "train"))
    assert (status, report.count("\n")) == (2, 1)
    assert "must be a folder with train/ or val/" in report
    assert not output.exists()


def test_splits_without_images_are_checked(check, data):
    for image in data.rglob("*.JPEG"):
        image.unlink()
    status, report, _ = check()
    assert status == 1
    assert "6 of kind class:" in report
