"""Checking CSV files and their videos, from the command line to the output files."""

import json
import os
import signal
from pathlib import Path

import check_data
import pandas as pd
import pytest
from broken_videos import BROKEN, make_broken_videos
from made_videos import moving_noise
from PIL import Image

from stvit_video.data import labeled_videos
from stvit_video.data.check.journal import Journal, VideoFacts
from stvit_video.data.encode import write_video
from stvit_video.data.labeled_paths import read_labeled_paths
from stvit_video.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Folder with the valid videos a to d, and one broken file of each kind."""
    folder = tmp_path / "data set"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        frames = moving_noise(10 + number, height=48 + 16 * (number % 2))
        write_video(folder / f"{name}.mp4", frames, fps=25, codec="mpeg4")
    make_broken_videos(folder)
    return folder


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """File that lists the names of the videos that workers open."""
    real = labeled_videos.open_video
    record = tmp_path / "opened"

    def open_video(path, **options):
        with record.open("a") as file:
            file.write(Path(path).name + "\n")
        if Path(path).name == "kills.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, **options)

    monkeypatch.setattr(labeled_videos, "open_video", open_video)
    return record


def test_a_clean_data_set_has_exit_status_0(folder, tmp_path, capsys):
    (folder / "train.csv").write_text("a.mp4 0\nb.mp4 1\n")
    (folder / "val.csv").write_text("c.mp4 0\nd.mp4 1\n")
    (folder / "test.csv").write_text("c.mp4 0\nd.mp4 1\n")  # often the same as val.csv
    config = tmp_path / "a.yaml"
    config.write_text(f"MODEL: {{NUM_CLASSES: 2}}\nDATA: {{PATH_TO_DATA_DIR: '{folder}'}}\n")
    output = tmp_path / "out"
    arguments = ["--cfg", str(config), "--output", str(output), "--workers", "2"]
    assert check_data.main(arguments) == 0
    report = capsys.readouterr().out
    assert "No problems were found." in report
    table = pd.read_csv(output / "statistics.csv", index_col=0)
    assert list(table) == ["train", "val", "test"]
    assert table.train["frames"] == "10 to 11, median 10.5"
    assert table.train["seconds"] == "0.4 to 0.44, median 0.42"
    assert table.val["width x height"] == "64x48 (1), 64x64 (1)"
    assert table.val["frames a second"] == "25 (2)"
    with Image.open(output / "statistics.png") as picture:
        assert len(picture.convert("L").getcolors()) > 10
    assert (output / "train.clean.csv").read_text() == (folder / "train.csv").read_text()
    assert len(pd.read_csv(output / "quarantine.csv")) == 0


def test_all_problems_are_reported(folder, tmp_path, opened):
    lines = ["a.mp4 0", "b.mp4", "./a.mp4 1", "b.mp4 9", "b.mp4 x", "b.mp4 0", "kills.mp4 3"]
    lines += [f"{name} 3" for name in BROKEN]
    (folder / "kills.mp4").touch()
    (folder / "train.csv").write_text("\n".join(lines))
    (folder / "val.csv").write_text("c.mp4 0\nb.mp4 1\n")
    output = tmp_path / "out"
    files = ["--csv", str(folder / "train.csv"), str(folder / "val.csv"), "--num_classes", "6"]
    assert check_data.main([*files, "--output", str(output), "--workers", "2"]) == 1

    table = pd.read_csv(output / "quarantine.csv").set_index("path")
    assert sorted(table.index) == sorted(["kills.mp4", *BROKEN])
    for name, (_, reason) in BROKEN.items():
        assert pd.Series(table.error[name]).str.contains(reason).all(), name
    assert "SIGKILL" in table.error["kills.mp4"]
    assert table.line["kills.mp4"] == 7

    problems = (output / "problems.txt").read_text()
    train = folder / "train.csv"
    for problem in (
        f'{train}, line 2: a line must be "path label"',
        f"{train}, line 3: ./a.mp4 is already on line 1, with label 0 instead of 1\n",
        f"{train}, line 4: the label must lie in 0..5",
        f"{train}, line 5: the label must be an integer",
        f"{folder / 'val.csv'}, line 2: b.mp4 is also a training video ({train}, line 6)\n",
        f"{train}: 3 of 6 classes have no video: 2, 4-5\n",
        f"{train}, line 7: cannot read the video kills.mp4: ",
    ):
        assert problem in problems
    assert problems.count("\n") == 6 + 1 + len(BROKEN)

    clean = read_labeled_paths(output / "train.clean.csv", separator=" ", num_classes=6)
    assert list(clean) == [("a.mp4", 0), ("b.mp4", 0)]


def test_an_interrupted_check_resumes(folder, tmp_path, opened):
    (folder / "kills.mp4").touch()
    names = ["kills.mp4", "a.mp4", "b.mp4", "c.mp4", "text.mp4", "missing.mp4", "d.mp4"]
    (folder / "train.csv").write_text("".join(f"{name} 0\n" for name in names))
    arguments = ["--csv", str(folder / "train.csv"), "--num_classes", "1"]
    arguments += ["--output", str(tmp_path / "out"), "--workers", "1"]
    assert check_data.main(arguments) == 1
    before = (tmp_path / "out" / "quarantine.csv").read_text()
    journal = tmp_path / "out" / "journal.jsonl"
    complete = journal.read_text().splitlines(keepends=True)
    assert len(complete) == 6  # all but the missing one

    # As if the check had been killed while writing its fifth line, and b had changed since.
    journal.write_text("".join(complete[:4]) + complete[4][:20])
    known = {Path(json.loads(line)["file"]).name for line in complete[:4]}
    write_video(folder / "b.mp4", moving_noise(5), fps=25, codec="mpeg4")
    opened.unlink()
    assert check_data.main(arguments) == 1
    again = opened.read_text().split()
    assert set(again) == set(names) - known | {"b.mp4"}
    assert (tmp_path / "out" / "quarantine.csv").read_text() == before

    opened.unlink()
    assert check_data.main(arguments) == 1
    assert opened.read_text().split() == ["missing.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--csv gone.csv --num_classes 2", "cannot read gone.csv"),
        ("--csv a.csv", "--csv needs --num_classes"),
        ("--csv a.csv --num_classes 2 DATA.PATH_PREFIX x", "Config overrides need --cfg"),
        ("--csv a.csv b/a.csv --num_classes 2", "must have different names"),
        ("--csv a.csv --num_classes 2 --workers 0", "--workers must be at least 1"),
        ("--cfg a.yaml DATA.PATH_TO_DATA_DIR nowhere", 'DATA.PATH_TO_DATA_DIR "nowhere" must be'),
        ("--csv a.csv --num_classes 2", "a.csv has no valid line; a.csv, line 1"),
        ("--csv c.csv --num_classes 2", "there is no video gone.mp4, nor any other"),
    ],
)
def test_invalid_arguments_have_exit_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("a.mp4\n")
    Path("c.csv").write_text("gone.mp4 1\n")
    Path("a.yaml").write_text("DEVICE: cpu\n")
    assert check_data.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_a_journal_is_rejected(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"dog": 9}\n')
    with pytest.raises(UserError, match="line 1: this is not a journal"):
        Journal(path, way="all")
    assert path.read_text() == '{"dog": 9}\n'


def test_the_journal_returns_the_facts(tmp_path):
    file = tmp_path / "ü.mp4"
    file.touch()
    facts = VideoFacts(frames=9, fps=30000 / 1001, height=48, width=64)
    Journal(tmp_path / "journal.jsonl", way="all").add(str(file), facts)
    again = Journal(tmp_path / "journal.jsonl", way="all")
    assert again.get(str(file)) == facts
    assert again.get(str(tmp_path / "gone.mp4")) is None
    assert Journal(tmp_path / "journal.jsonl", way="other").get(str(file)) is None
