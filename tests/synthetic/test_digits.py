"""The digits data set: splits, drawing, and files."""

import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stvit_video.data.imagenet import read_image_folders
from stvit_video.errors import UserError
from stvit_video.synthetic.digits import (
    CLASSES,
    SIDE,
    DigitRecipe,
    draw_digit,
    load_digits,
    make_digit_dataset,
    split_digits,
)

SMALL = DigitRecipe(seed=3, train=60, val=30)
SPLITS = {"train": 60, "val": 30}


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "set"
    assert make_digit_dataset(folder, SMALL, num_workers=2)
    return folder


def pictures(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def source_of(path):
    """Return the number of a picture's handwritten digit."""
    return int(path.stem.split("_")[1])


def test_splits_are_a_stratified_partition(digits):
    train, val = split_digits(digits, (0.8, 0.2), seed=0)
    assert not set(train.numbers) & set(val.numbers)
    assert sorted([*train.numbers, *val.numbers]) == list(range(1797))
    # There are no duplicates either.
    assert len(np.unique(digits.images.reshape(1797, -1), axis=0)) == 1797
    for part, share in ((train, 0.8), (val, 0.2)):
        for label in range(10):
            of_class = (part.labels == label).sum()
            assert abs(of_class - share * (digits.labels == label).sum()) <= 0.5
    assert (digits.labels[val.numbers] == val.labels).all()


def test_another_seed_gives_another_split(digits):
    first, second = (split_digits(digits, (0.8, 0.2), seed=seed)[1].numbers for seed in (0, 1))
    assert set(first) != set(second)


def shrink(image):
    """Crop the brightest part of a picture or a digit, and resize it to [8, 8]."""
    rows, columns = np.nonzero(image > 0.75 * image.max())
    part = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.asarray(Image.fromarray(part).resize((8, 8))).ravel()


def test_the_whole_digit_is_in_the_picture(digits):
    """A drawn digit correlates more with itself than with the next digit of another class."""
    no_others = np.zeros((1, 8, 8), np.float32)
    alike = []
    for number in range(50):
        picture = draw_digit(digits.images[number], no_others, rng=np.random.default_rng(number))
        seen = shrink(picture.astype(np.float32))
        other = np.flatnonzero(digits.labels[number:] != digits.labels[number])[0] + number
        alike.append(
            [np.corrcoef(seen, shrink(digits.images[place]))[0, 1] for place in (number, other)]
        )
    own, others = np.array(alike).T
    assert (own > others).mean() > 0.9


def test_fragments_of_other_digits_are_drawn(digits):
    image, others = np.zeros((8, 8), np.float32), np.ones((1, 8, 8), np.float32)

    def brightness(fragments):
        drawn = [
            draw_digit(image, fragments, rng=np.random.default_rng(seed)) for seed in range(20)
        ]
        return np.mean(drawn)

    assert brightness(others) > brightness(np.zeros_like(others)) + 2


def test_files_form_a_data_set_of_ten_classes(small_dataset):
    for split, count in SPLITS.items():
        paths = read_image_folders(
            small_dataset / split, num_classes=10, like=small_dataset / "train"
        )
        labels = [label for _, label in paths]
        assert labels == sorted(list(range(10)) * (count // 10))
    assert [folder.name for folder in sorted((small_dataset / "val").iterdir())] == list(CLASSES)
    with Image.open(next(small_dataset.rglob("*.png"))) as picture:
        assert picture.size == (SIDE, SIDE)


def test_no_training_digit_is_in_validation(small_dataset, digits):
    sources = {
        split: {source_of(path) for path in (small_dataset / split).rglob("*.png")}
        for split in SPLITS
    }
    assert not sources["train"] & sources["val"]
    for path in small_dataset.rglob("*.png"):
        assert digits.labels[source_of(path)] == int(path.parent.name)


def test_the_same_recipe_gives_the_same_files_and_another_seed_others(small_dataset, tmp_path):
    for folder, seed in (("again", 3), ("other", 4)):
        make_digit_dataset(tmp_path / folder, DigitRecipe(seed, 60, 30), num_workers=1)
    first, again, other = (
        pictures(folder) for folder in (small_dataset, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_existing_folders_are_not_overwritten(small_dataset, tmp_path):
    before = pictures(small_dataset)
    assert not make_digit_dataset(small_dataset, SMALL, num_workers=1)
    for folder, recipe in ((small_dataset, DigitRecipe(seed=9)), (tmp_path, SMALL)):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match="something else than this digits data set"):
            make_digit_dataset(folder, recipe, num_workers=1)
    assert pictures(small_dataset) == before
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("stvit_video.synthetic.digits.split_digits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_digit_dataset(tmp_path / "set", SMALL, num_workers=1)
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install 'scikit-learn"):
        load_digits()


def test_the_program(tmp_path):
    program = Path(__file__).resolve().parents[2] / "tools" / "make_digit_images.py"

    def run(folder):
        command = [sys.executable, str(program), str(folder), "--train", "20", "--val", "10"]
        return subprocess.run(
            [*command, "--workers", "1"], capture_output=True, text=True, check=False
        )

    first = run(tmp_path / "new")
    assert (first.returncode, "30 images in" in first.stdout) == (0, True), first.stderr
    assert "holds this data set already" in run(tmp_path / "new").stdout
    refused = run(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
