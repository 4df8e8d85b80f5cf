"""Generate the digits data set: pictures of a handwritten digit among strokes, in ten classes."""

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
# Side of a picture in pixels.
SIDE = 56
# Sides of digits, and of those that pieces are taken of, by the side of the picture.
_DIGIT_SIDES, _PIECE_SCALES = (0.85, 0.98), (0.4, 0.55)
# Digits are upright but for this angle, in radians either way; pieces of digits lie anyhow.
_TILT = math.radians(8)
# Numbers of pieces and of strokes.
_PIECES, _STROKES = (1, 2), (1, 2)
# Sides of what is left of a digit in a piece, in the digits' own 8 pixels.
_PIECE_SIDES = (3, 5)
# Length of a stroke by the side of the picture, and its width in pixels.
_STROKE_LENGTHS, _STROKE_WIDTH = (0.12, 0.3), 2
# Brightness, in [0, 1], of the background, the digit and what distracts from it; and the noise's
# standard deviation.
_BACKGROUND, _INK, _DISTRACTOR_INK = (0.05, 0.15), (0.8, 1.0), (0.4, 0.7)
_NOISE = 0.04
# Empty pixels around a digit's own, so that its edge is soft there too.
_MARGIN = 2


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes:
        numbers: [K] their places in scikit-learn's data set.
        labels: [K] what they are.
        images: [K, 8, 8] ink in [0, 1].
    """

    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: NDArray[np.float32]

    def of(self, chosen: NDArray[np.int64]) -> "Digits":
        """Give those at some places of these."""
        return Digits(self.numbers[chosen], self.labels[chosen], self.images[chosen])


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
    """Deal digits out at random, each to one part, and each class in the same shares.

    Args:
        digits: all.
        shares: of the parts; their sum is 1.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    for label in range(len(CLASSES)):
        places = rng.permutation(np.flatnonzero(digits.labels == label))
        cuts = np.round(np.cumsum(shares)[:-1] * len(places)).astype(int)
        for part, chosen in zip(parts, np.split(places, cuts), strict=True):
            part.append(chosen)
    return [digits.of(np.sort(np.concatenate(part))) for part in parts]


def draw_digit(
    image: NDArray[np.float32], others: NDArray[np.float32], *, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a digit somewhere, over pieces of others and strokes.

    Args:
        image: [8, 8] the digit.
        others: [K, 8, 8] digits to take pieces of.
        rng: draws everything else.

    Returns:
        Gray levels [H, W].
    """
    picture = np.full((SIDE, SIDE), rng.uniform(*_BACKGROUND))
    for _ in range(rng.integers(*_PIECES, endpoint=True)):
        piece = _piece(others[rng.integers(len(others))], rng=rng)
        cover = _placed(piece, sides=_PIECE_SCALES, tilt=math.pi, rng=rng)
        picture = _painted(picture, cover, ink=rng.uniform(*_DISTRACTOR_INK))
    for _ in range(rng.integers(*_STROKES, endpoint=True)):
        picture = _painted(picture, _stroke(rng), ink=rng.uniform(*_DISTRACTOR_INK))
    cover = _placed(image, sides=_DIGIT_SIDES, tilt=_TILT, rng=rng)
    picture = _painted(picture, cover, ink=rng.uniform(*_INK))
    noisy = picture + rng.normal(0, _NOISE, picture.shape)
    return (255 * noisy.clip(0, 1)).astype(np.uint8)


def _piece(image: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """A digit [8, 8] of which one rectangle is left."""
    height, width = rng.integers(*_PIECE_SIDES, 2, endpoint=True)
    top, left = rng.integers(len(image) - height + 1), rng.integers(len(image) - width + 1)
    piece = np.zeros_like(image)
    rectangle = (slice(top, top + height), slice(left, left + width))
    piece[rectangle] = image[rectangle]
    return piece


def _placed(
    image: NDArray[np.float32],
    *,
    sides: tuple[float, float],
    tilt: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """A digit [8, 8] in a random place, size and angle: its cover [H, W] of the picture."""
    side = SIDE * rng.uniform(*sides)
    angle = rng.uniform(-tilt, tilt)
    x, y = rng.uniform(side / 2, SIDE - side / 2, 2)
    source = Image.fromarray(np.pad(image, _MARGIN))
    # From a pixel of the picture to one of the digit.
    shrink = len(image) / side
    cos, sin, middle = shrink * math.cos(angle), shrink * math.sin(angle), source.width / 2
    matrix = (cos, sin, middle - cos * x - sin * y, -sin, cos, middle + sin * x - cos * y)
    placed = source.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(placed, np.float32).clip(0, 1)


def _stroke(rng: np.random.Generator) -> NDArray[np.float32]:
    """A short straight line anywhere: its cover [H, W] of the picture."""
    length, angle = SIDE * rng.uniform(*_STROKE_LENGTHS), rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(0, SIDE, 2)
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).line(((x, y), end), fill=255, width=_STROKE_WIDTH)
    return np.asarray(canvas, np.float32) / np.float32(255)


def _painted(
    picture: NDArray[np.float64], cover: NDArray[np.float32], *, ink: float
) -> NDArray[np.float64]:
    """The picture with the covered share of each pixel in one gray level."""
    return picture + cover * (ink - picture)


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
    return make_folder_atomically(Path(folder), description, write)


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
