"""Generate the digits data set: handwritten digits with distractors, in ten classes."""

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stvit_video.errors import UserError
from stvit_video.synthetic.folder import make_folder_atomically

CLASSES = tuple("0123456789")
# Increase when the same seed gives different pictures.
_VERSION = 1
# Share of the handwritten digits for each split.
_SPLITS = {"train": 0.8, "val": 0.2}
# Side of a picture in pixels.
SIDE = 56
# Ranges of the sides of digits, and of the digits that fragments are cut from, relative to SIDE.
_DIGIT_SCALES, _FRAGMENT_SCALES = (0.85, 0.98), (0.4, 0.55)
# Digits are rotated by up to this angle in radians; fragments are rotated arbitrarily.
_MAX_TILT = math.radians(8)
# Ranges of the numbers of fragments and strokes.
_NUM_FRAGMENTS, _NUM_STROKES = (1, 2), (1, 2)
# Range of the sides of a fragment, in pixels of the 8x8 digits.
_FRAGMENT_SIDES = (3, 5)
# Range of the length of a stroke relative to SIDE, and its width in pixels.
_STROKE_LENGTHS, _STROKE_WIDTH = (0.12, 0.3), 2
# Ranges of brightness in [0, 1].
_BACKGROUND, _DIGIT_INK, _DISTRACTOR_INK = (0.05, 0.15), (0.8, 1.0), (0.4, 0.7)
_NOISE_STD = 0.04
# Empty pixels around a digit, which make its border soft when it is resized.
_MARGIN = 2


@dataclass(frozen=True)
class DigitRecipe:
    """Parameters that determine a digits data set.

    Attributes:
        seed: of all random choices; splits share no handwritten digit.
        train: number of pictures of the training split.
        val: number of pictures of the validation split.
    """

    seed: int = 0
    train: int = 5000
    val: int = 2000


def make_digit_dataset(folder: str | Path, recipe: DigitRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` already contains it.

    A picture is ``<split>/<digit>/<index>_<number>.png``, where ``number`` is the index of its
    digit in scikit-learn's data set.

    Args:
        folder: train/ and val/ are written to it.
        recipe: the same recipe gives the same pictures.
        num_workers: worker processes.

    Returns:
        Whether the data set was written.

    Raises:
        UserError: ``folder`` contains something else, or scikit-learn is not installed.
    """
    description = {"dataset": "digits", "version": _VERSION, **asdict(recipe)}
    write = partial(_write_splits, recipe=recipe, num_workers=num_workers)
    return make_folder_atomically(Path(folder), description, write)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes:
        numbers: [K] their indices in scikit-learn's data set.
        labels: [K] their classes.
        images: [K, 8, 8] ink in [0, 1].
    """

    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: NDArray[np.float32]

    def subset(self, indices: NDArray[np.int64]) -> "Digits":
        """Select digits by their indices."""
        return Digits(self.numbers[indices], self.labels[indices], self.images[indices])


def _write_splits(folder: Path, *, recipe: DigitRecipe, num_workers: int) -> None:
    parts = split_digits(load_digits(), list(_SPLITS.values()), seed=recipe.seed)
    with ProcessPoolExecutor(num_workers) as pool:
        for number, (split, digits) in enumerate(zip(_SPLITS, parts, strict=True)):
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
            write = partial(
                _write_picture, folder / split, digits=digits, seed=(recipe.seed, number)
            )
            # There are no results, but fetching them raises exceptions of the workers.
            list(pool.map(write, range(getattr(recipe, split)), chunksize=64))


def _write_picture(folder: Path, index: int, *, digits: Digits, seed: tuple[int, int]) -> None:
    rng = np.random.default_rng((*seed, index))
    label = index % len(CLASSES)
    chosen = rng.choice(np.flatnonzero(digits.labels == label))
    picture = draw_digit(digits.images[chosen], digits.images, rng=rng)
    name = f"{index:05d}_{digits.numbers[chosen]:04d}.png"
    Image.fromarray(picture).save(folder / CLASSES[label] / name)


def load_digits() -> Digits:
    """Load the 1797 digits that come with scikit-learn.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError(
            "The digits come with scikit-learn, which is not installed: run "
            "pip install 'scikit-learn>=1.5'."
        ) from error
    loaded = datasets.load_digits()
    images = (loaded.images / 16).astype(np.float32)
    return Digits(np.arange(len(images)), loaded.target.astype(np.int64), images)


def split_digits(digits: Digits, shares: Sequence[float], *, seed: int) -> list[Digits]:
    """Split digits randomly into disjoint parts, stratified by class.

    Args:
        digits: all digits.
        shares: of the parts; their sum is 1.
        seed: of the split.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(digits.labels == label))
        cuts = np.round(np.cumsum(shares)[:-1] * len(indices)).astype(int)
        for part, of_class in zip(parts, np.split(indices, cuts), strict=True):
            part.append(of_class)
    return [digits.subset(np.sort(np.concatenate(part))) for part in parts]


def draw_digit(
    image: NDArray[np.float32], others: NDArray[np.float32], *, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a digit at a random position, over fragments of other digits and strokes.

    Args:
        image: [8, 8] the digit.
        others: [K, 8, 8] digits to cut fragments from.
        rng: source of all random choices.

    Returns:
        Gray levels, uint8 [H, W].
    """
    picture = np.full((SIDE, SIDE), rng.uniform(*_BACKGROUND))
    for _ in range(rng.integers(*_NUM_FRAGMENTS, endpoint=True)):
        fragment = _fragment(others[rng.integers(len(others))], rng=rng)
        cover = _place(fragment, scales=_FRAGMENT_SCALES, max_tilt=math.pi, rng=rng)
        picture = _paint(picture, cover, ink=rng.uniform(*_DISTRACTOR_INK))
    for _ in range(rng.integers(*_NUM_STROKES, endpoint=True)):
        picture = _paint(picture, _stroke(rng), ink=rng.uniform(*_DISTRACTOR_INK))
    cover = _place(image, scales=_DIGIT_SCALES, max_tilt=_MAX_TILT, rng=rng)
    picture = _paint(picture, cover, ink=rng.uniform(*_DIGIT_INK))
    noisy = picture + rng.normal(0, _NOISE_STD, picture.shape)
    return (255 * noisy.clip(0, 1)).astype(np.uint8)


def _fragment(image: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Keep a random rectangle of a digit [8, 8], and clear the rest."""
    height, width = rng.integers(*_FRAGMENT_SIDES, 2, endpoint=True)
    top, left = rng.integers(len(image) - height + 1), rng.integers(len(image) - width + 1)
    fragment = np.zeros_like(image)
    rectangle = (slice(top, top + height), slice(left, left + width))
    fragment[rectangle] = image[rectangle]
    return fragment


def _place(
    image: NDArray[np.float32],
    *,
    scales: tuple[float, float],
    max_tilt: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Place a digit [8, 8] at a random position, size and angle; return its coverage [H, W]."""
    side = SIDE * rng.uniform(*scales)
    angle = rng.uniform(-max_tilt, max_tilt)
    x, y = rng.uniform(side / 2, SIDE - side / 2, 2)
    source = Image.fromarray(np.pad(image, _MARGIN))
    # Affine map from a pixel of the picture to one of the digit.
    scale = len(image) / side
    cos, sin, center = scale * math.cos(angle), scale * math.sin(angle), source.width / 2
    matrix = (cos, sin, center - cos * x - sin * y, -sin, cos, center + sin * x - cos * y)
    placed = source.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(placed, np.float32).clip(0, 1)


def _stroke(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a short straight line anywhere; return its coverage [H, W]."""
    length, angle = SIDE * rng.uniform(*_STROKE_LENGTHS), rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(0, SIDE, 2)
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).line(((x, y), end), fill=255, width=_STROKE_WIDTH)
    return np.asarray(canvas, np.float32) / np.float32(255)


def _paint(
    picture: NDArray[np.float64], cover: NDArray[np.float32], *, ink: float
) -> NDArray[np.float64]:
    """Blend a gray level into the picture by the coverage of each pixel."""
    return picture + cover * (ink - picture)
