"""The digits data set on disk: folders of pictures by class, as ImageNet comes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from stvit_video.data.synthetic.digits import (
    CLASSES,
    Digits,
    draw_digit,
    load_digits,
    split_digits,
)
from stvit_video.data.synthetic.whole_folder import make_whole

# To be raised when the same seed gives other pictures.
_VERSION = 1
# Shares of the handwritten digits that the pictures of each split are made of.
_SPLITS = {"train": 0.8, "val": 0.2}


@dataclass(frozen=True)
class DigitRecipe:
    """What determines a digits data set.

    Attributes:
        seed: of all choices; splits share no handwritten digit.
        train: pictures of the training split.
        val: pictures of the validation split.
    """

    seed: int = 0
    train: int = 5000
    val: int = 2000


def make_digit_dataset(folder: str | Path, recipe: DigitRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` holds it already.

    A picture is ``<split>/<digit>/<index>_<number>.png``, with its digit's number in
    scikit-learn's data set.

    Args:
        folder: gets train/ and val/.
        recipe: the same recipe gives the same pictures.
        num_workers: processes.

    Returns:
        Whether it had to be written.

    Raises:
        UserError: ``folder`` holds something else, or scikit-learn is not installed.
    """
    description = {"dataset": "digits", "version": _VERSION, **asdict(recipe)}
    write = partial(_write_splits, recipe=recipe, num_workers=num_workers)
    return make_whole(Path(folder), description, write)


def _write_splits(folder: Path, *, recipe: DigitRecipe, num_workers: int) -> None:
    parts = split_digits(load_digits(), list(_SPLITS.values()), seed=recipe.seed)
    with ProcessPoolExecutor(num_workers) as pool:
        for place, (split, digits) in enumerate(zip(_SPLITS, parts, strict=True)):
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
            write = partial(_write_one, folder / split, digits=digits, seed=(recipe.seed, place))
            # The results say nothing, but fetching them raises what a process raised.
            list(pool.map(write, range(getattr(recipe, split)), chunksize=64))


def _write_one(folder: Path, index: int, *, digits: Digits, seed: tuple[int, int]) -> None:
    rng = np.random.default_rng((*seed, index))
    label = index % len(CLASSES)
    chosen = rng.choice(np.flatnonzero(digits.labels == label))
    picture = draw_digit(digits.images[chosen], digits.images, rng=rng)
    name = f"{index:05d}_{digits.numbers[chosen]:04d}.png"
    Image.fromarray(picture).save(folder / CLASSES[label] / name)
