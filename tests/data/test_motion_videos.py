import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_videos import plain_decode

from stvit_video.data.decode import open_video
from stvit_video.data.synthetic import files
from stvit_video.data.synthetic.files import MotionRecipe, make_motion_dataset
from stvit_video.data.synthetic.render import TILE, render
from stvit_video.data.synthetic.tracks import CLASSES, SIZES, Track, draw_track
from stvit_video.errors import UserError

SMALL = MotionRecipe(seed=3, train=16, val=8, test=8)


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion") / "set"
    assert make_motion_dataset(folder, SMALL, num_workers=2)
    return folder


def lines(folder, split):
    rows = [line.rsplit(" ", 1) for line in (folder / f"{split}.csv").read_text().splitlines()]
    return [(folder / path, int(label)) for path, label in rows]


def steps(phases):
    """Differences of neighbours on a circle of length 1."""
    return (np.diff(phases) + 0.5) % 1 - 0.5


def classify(x, y, size):
    """Tell the class of a track by how place and size change from frame to frame."""
    dx, dy, growth = steps(x), steps(y), np.diff(np.log(size))
    if np.abs(growth).max() > 0.02:
        return CLASSES.index("approach" if np.median(growth) > 0 else "recede")
    turn = np.median(dx[:-1] * dy[1:] - dy[:-1] * dx[1:])
    if abs(turn) > 0.1 * np.median(dx**2 + dy**2):
        return CLASSES.index("clockwise" if turn > 0 else "counter_clockwise")
    if np.abs(dx).mean() > np.abs(dy).mean():
        return CLASSES.index("right" if dx.mean() > 0 else "left")
    return CLASSES.index("down" if dy.mean() > 0 else "up")


def reverse(track: Track) -> Track:
    return Track(*(part[::-1] for part in (track.x, track.y, track.size, track.angle)))


@pytest.mark.parametrize("label", range(8))
def test_motion_tells_the_classes_apart_and_backwards_they_are_the_opposite(label):
    for seed in range(20):
        track = draw_track(label, num_frames=24, rng=np.random.default_rng(seed))
        assert classify(track.x, track.y, track.size) == label
        backwards = reverse(track)
        assert classify(backwards.x, backwards.y, backwards.size) == label ^ 1


def frame_features(track: Track, frame: int) -> list[float]:
    """All that one frame shows of a track, with what is periodic as points on circles."""
    circles = (track.x[frame], track.y[frame], track.angle[frame] / (2 * np.pi))
    size = np.log(track.size[frame] / SIZES[0]) / np.log(SIZES[1] / SIZES[0])
    points = [f(2 * np.pi * phase) for phase in circles for f in (np.cos, np.sin)]
    return [*points, size, (size - 0.5) ** 2]


@pytest.mark.parametrize("frame", [0, 11, -1])
def test_what_one_frame_shows_has_the_same_distribution_in_all_classes(frame):
    """Class means of each feature agree within 4.5 standard errors."""
    number = 400
    features = np.array(
        [
            [
                frame_features(
                    draw_track(label, num_frames=24, rng=np.random.default_rng((label, seed))),
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
    """Least squares on the pixels of rendered frames, trained on some videos, tried on others."""

    def pictures(seeds):
        images, labels = [], []
        for label in range(8):
            for seed in seeds:
                rng = np.random.default_rng((label, seed))
                track = draw_track(label, num_frames=3, rng=rng)
                images.append(render(track, height=32, width=32, rng=rng)[1].mean(axis=2)[::2, ::2])
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


def track_in(frames):
    """Find place (in tiles) and size of the sprites in rendered or decoded frames."""
    grey = frames.astype(float).mean(axis=3)
    tile = round(TILE * min(grey.shape[1:]))
    # As many whole tiles as there are: then no part of a sprite is seen twice.
    height, width = (side // tile * tile for side in grey.shape[1:])
    sprite = np.clip(grey[:, :height, :width] - 125, 0, None)
    places = []
    for others, side in ((1, width), (2, height)):
        waves = np.exp(2j * np.pi * (np.arange(side) + 0.5) / tile)
        places.append(np.angle(sprite.sum(axis=others) @ waves) / (2 * np.pi))
    return *places, np.sqrt((sprite > 0).mean(axis=(1, 2)))


def classify_by_eye(frames):
    """As `classify`, for estimates that are only about right."""
    x, y, size = track_in(frames)
    moves = np.median(np.hypot(steps(x), steps(y))) > 0.02
    if moves:
        return classify(x, y, np.ones(len(x)))
    return CLASSES.index("approach" if np.median(np.diff(np.log(size))) > 0 else "recede")


def test_the_motion_can_be_seen_in_the_decoded_files(small_dataset):
    videos = [row for split in ("train", "val", "test") for row in lines(small_dataset, split)]
    right = [classify_by_eye(plain_decode(path)) == label for path, label in videos]
    assert sum(right) >= 0.9 * len(right)


def test_rendered_sprites_are_where_the_track_says():
    rng = np.random.default_rng(5)
    track = draw_track(CLASSES.index("clockwise"), num_frames=24, rng=rng)
    x, y, _ = track_in(render(track, height=96, width=144, rng=rng))
    assert np.abs(steps_between(x, track.x)).max() < 0.06
    assert np.abs(steps_between(y, track.y)).max() < 0.06


def steps_between(some, others):
    return (some - others + 0.5) % 1 - 0.5


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


def test_a_whole_data_set_is_left_alone(small_dataset):
    before = {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")}
    assert not make_motion_dataset(small_dataset, SMALL, num_workers=1)
    assert {path: path.stat().st_mtime_ns for path in small_dataset.rglob("*")} == before


def test_another_folder_is_never_overwritten(small_dataset, tmp_path):
    with pytest.raises(UserError, match="something else"):
        make_motion_dataset(small_dataset, MotionRecipe(seed=9), num_workers=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        make_motion_dataset(tmp_path, SMALL, num_workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_write_splits", interrupted)
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
