"""The motion data set: classes, single frames, rendering, and files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_videos import plain_decode

from stvit_video.data.decode import open_video
from stvit_video.errors import UserError
from stvit_video.synthetic import motion
from stvit_video.synthetic.motion import (
    CLASSES,
    TILE_SIDES,
    CameraPath,
    MotionRecipe,
    draw_camera_path,
    make_motion_dataset,
    render,
)

SMALL = MotionRecipe(seed=3, train=16, val=8, test=8)


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion") / "set"
    assert make_motion_dataset(folder, SMALL, num_workers=2)
    return folder


def lines(folder, split):
    rows = [line.rsplit(" ", 1) for line in (folder / f"{split}.csv").read_text().splitlines()]
    return [(folder / path, int(label)) for path, label in rows]


def reverse(path: CameraPath) -> CameraPath:
    return CameraPath(*(part[::-1] for part in (path.x, path.y, path.tile, path.angle)))


def flow_of(path: CameraPath):
    """Return the motion of a path on the screen, [T - 1] each: right, down, rotation, growth."""
    turn, growth = np.diff(path.angle), np.diff(np.log(path.tile))
    dx, dy = ((np.diff(part) + 0.5) % 1 - 0.5 for part in (path.x, path.y))
    cos, sin, tile = np.cos(path.angle[:-1]), np.sin(path.angle[:-1]), path.tile[:-1]
    return tile * (dx * cos - dy * sin), tile * (dx * sin + dy * cos), turn, growth


def classify(right, down, turn, growth):
    """Return the class of the largest motion, measured for a pixel at medium radius."""
    right, down, turn, growth = (np.median(part) for part in (right, down, turn, growth))
    speeds = {
        "left": -right,
        "right": right,
        "up": -down,
        "down": down,
        "clockwise": turn * 0.38,
        "counter_clockwise": -turn * 0.38,
        "approach": growth * 0.38,
        "recede": -growth * 0.38,
    }
    return CLASSES.index(max(speeds, key=speeds.__getitem__))


@pytest.mark.parametrize("label", range(8))
def test_motion_determines_the_class_and_reversed_videos_have_the_opposite_class(label):
    for seed in range(20):
        path = draw_camera_path(label, num_frames=24, rng=np.random.default_rng(seed))
        assert classify(*flow_of(path)) == label
        assert classify(*flow_of(reverse(path))) == label ^ 1


def frame_features(path: CameraPath, frame: int) -> list[float]:
    """Return the features of a path in one frame, with periodic ones as points on circles."""
    circles = (path.x[frame], path.y[frame], path.angle[frame] / (2 * np.pi))
    size = np.log(path.tile[frame] / TILE_SIDES[0]) / np.log(TILE_SIDES[1] / TILE_SIDES[0])
    points = [f(2 * np.pi * phase) for phase in circles for f in (np.cos, np.sin)]
    return [*points, size, (size - 0.5) ** 2]


@pytest.mark.parametrize("frame", [0, 11, -1])
def test_single_frames_have_the_same_distribution_in_all_classes(frame):
    """Class means of each feature agree within 4.5 standard errors."""
    number = 400
    features = np.array(
        [
            [
                frame_features(
                    draw_camera_path(
                        label, num_frames=24, rng=np.random.default_rng((label, seed))
                    ),
                    frame,
                )
                for seed in range(number)
            ]
            for label in range(8)
        ]
    )
    means, error = features.mean(axis=1), features.std(axis=(0, 1)) / np.sqrt(number)
    assert (np.abs(means - means.mean(axis=0)) < 4.5 * error).all()


def test_a_classifier_of_single_frames_stays_at_chance():
    """Least squares on the pixels of rendered frames, tested on other videos."""

    def pictures(seeds):
        images, labels = [], []
        for label in range(8):
            for seed in seeds:
                rng = np.random.default_rng((label, seed))
                path = draw_camera_path(label, num_frames=3, rng=rng)
                images.append(render(path, height=32, width=32, rng=rng)[1].mean(axis=2)[::2, ::2])
                labels.append(label)
        pixels = np.array(images).reshape(len(images), -1)
        return np.hstack([pixels / 255, np.ones((len(images), 1))]), np.array(labels)

    train, train_labels = pictures(range(100))
    test, test_labels = pictures(range(1000, 1050))
    targets = np.eye(8)[train_labels]
    ridge = train.T @ train + 10 * np.eye(train.shape[1])
    scores = test @ np.linalg.solve(ridge, train.T @ targets)
    accuracy = (scores.argmax(axis=1) == test_labels).mean()
    assert accuracy < 0.125 + 4 * np.sqrt(0.125 * 0.875 / len(test))


def blur(pictures, radius):
    """Apply a box filter twice to [T, H, W]."""
    side = 2 * radius + 1
    for axis in (1, 2, 1, 2):
        sums = np.cumsum(np.insert(pictures, 0, 0, axis=axis), axis=axis)
        length = sums.shape[axis] - side
        pictures = (
            np.take(sums, range(side, side + length), axis=axis)
            - np.take(sums, range(length), axis=axis)
        ) / side
    return pictures


def flow_in(frames, *, radius):
    """Estimate the same as `flow_of` from pixels, as the similarity that best fits the changes.

    Least squares on the linearized brightness equation of optical flow (Lucas and Kanade).
    """
    short_side = min(frames.shape[1:3])
    gray = blur(np.where(frames.astype(float).mean(axis=3) > 90, 255.0, 0.0), radius)
    change, middle = np.diff(gray, axis=0), (gray[:-1] + gray[1:]) / 2
    slope_y, slope_x = np.gradient(middle, axis=(1, 2))
    y, x = (np.arange(side) - (side - 1) / 2 for side in gray.shape[1:])
    motions = np.stack(
        [slope_x, slope_y, slope_y * x - slope_x * y[:, None], slope_x * x + slope_y * y[:, None]],
        axis=-1,
    ).reshape(len(change), -1, 4)
    found = np.array(
        [
            -np.linalg.lstsq(m, c.ravel(), rcond=None)[0]
            for m, c in zip(motions, change, strict=True)
        ]
    )
    return found[:, 0] / short_side, found[:, 1] / short_side, found[:, 2], found[:, 3]


def test_motion_is_visible_in_the_decoded_files(small_dataset):
    videos = [row for split in ("train", "val", "test") for row in lines(small_dataset, split)]
    seen = [classify(*flow_in(plain_decode(path), radius=4)) for path, _ in videos]
    assert seen == [label for _, label in videos]


@pytest.mark.parametrize("part", ["x", "y", "tile", "angle"])
def test_rendered_frames_follow_the_path(part):
    rng = np.random.default_rng(5)
    step = {"x": 0.02, "y": 0.02, "tile": 0.01, "angle": 0.02}[part]
    still = {"x": np.full(9, 0.3), "y": np.zeros(9), "tile": np.full(9, 0.5), "angle": np.ones(9)}
    path = CameraPath(**{**still, part: still[part] + step * np.arange(9)})
    seen = np.array(flow_in(render(path, height=96, width=144, rng=rng), radius=3)).mean(axis=1)
    expected = np.array(flow_of(path)).mean(axis=1)
    np.testing.assert_allclose(seen, expected, atol=0.1 * np.abs(expected).max())


def test_files_csv_and_classes(small_dataset):
    assert json.loads((small_dataset / "classes.json").read_text()) == {
        name: label for label, name in enumerate(CLASSES)
    }
    videos = {split: lines(small_dataset, split) for split in ("train", "val", "test")}
    assert [len(rows) for rows in videos.values()] == [16, 8, 8]
    everything = [row for rows in videos.values() for row in rows]
    assert {label for _, label in videos["val"]} == set(range(8))
    kinds = set()
    for path, _ in everything:
        with open_video(path) as reader:
            shape = tuple(reader.get_frames([0]).shape)
            kinds.add((path.suffix, reader.fps, shape))
            assert 24 <= reader.num_frames <= 60
    for part in range(3):
        assert len({kind[part] for kind in kinds}) > 2


def test_the_same_recipe_gives_the_same_frames_and_another_seed_others(small_dataset, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    tiny = {"train": 8, "val": 1, "test": 1}
    make_motion_dataset(again, MotionRecipe(seed=3, **tiny), num_workers=1)
    make_motion_dataset(other, MotionRecipe(seed=4, **tiny), num_workers=1)
    first = plain_decode(lines(small_dataset, "train")[5][0])
    np.testing.assert_array_equal(plain_decode(lines(again, "train")[5][0]), first)
    elsewhere = plain_decode(lines(other, "train")[5][0])
    assert elsewhere.shape != first.shape or (elsewhere != first).any()


def test_an_existing_data_set_is_not_written_again(small_dataset):
    before = {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")}
    assert not make_motion_dataset(small_dataset, SMALL, num_workers=1)
    assert {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")} == before


def test_other_folders_are_not_overwritten(small_dataset, tmp_path):
    with pytest.raises(UserError, match="something else"):
        make_motion_dataset(small_dataset, MotionRecipe(seed=9), num_workers=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        make_motion_dataset(tmp_path, SMALL, num_workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(motion, "_write_splits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_motion_dataset(tmp_path / "set", SMALL, num_workers=1)
    assert list(tmp_path.iterdir()) == []


def test_the_program(tmp_path):
    program = Path(__file__).resolve().parents[2] / "tools" / "make_motion_videos.py"
    counts = ["--train", "2", "--val", "1", "--test", "1", "--workers", "1"]

    def run(folder):
        command = [sys.executable, str(program), str(folder), *counts]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = run(tmp_path / "new")
    assert (first.returncode, "4 videos in" in first.stdout) == (0, True), first.stderr
    assert "holds this data set already" in run(tmp_path / "new").stdout
    refused = run(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
