"""Generate the motion data set: short videos of a moving camera, in eight classes."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from stvit_video.data.encode import write_video
from stvit_video.synthetic.folder import make_folder_atomically

# Neighbors (0 and 1, 2 and 3, ...) are opposites. Directions are those in which the picture moves
# on the screen; it turns around the middle of the frame, and grows and shrinks around it.
CLASSES = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counter_clockwise",
    "approach",
    "recede",
)
# Side of a tile of the scene (see `CameraPath`), in units of the frame's short side. One that has
# grown to the largest goes on as the smallest.
TILE_SIDES = (0.35, 0.7)
# A period (a tile for the straight motions, from the smallest to the largest tile for growing)
# takes this many frames; a turn takes longer, so that pixels move about as fast in all classes.
_FRAMES_A_PERIOD = (16.0, 26.0)
_FRAMES_A_TURN = (40.0, 70.0)


@dataclass(frozen=True)
class CameraPath:
    """What the camera sees of a plane that is tiled with copies of a picture, in T frames.

    The center of a tile is at (x, y) from the middle of the frame, and the tiles are turned by
    ``angle`` around it.

    Attributes:
        x: [T] in tiles, along the tiles' own axes, as y; only the fraction matters.
        y: [T] in tiles.
        tile: [T] side of a tile, in units of the frame's short side.
        angle: [T] in radians, clockwise.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    tile: NDArray[np.float64]
    angle: NDArray[np.float64]


def draw_camera_path(label: int, *, num_frames: int, rng: np.random.Generator) -> CameraPath:
    """Draw a path of the class ``CLASSES[label]``."""
    x, y, zoom, turns = rng.uniform(size=(4, 1))
    frames = np.arange(num_frames)
    periods = frames / rng.uniform(*_FRAMES_A_PERIOD)
    motion = CLASSES[label]
    right, down = {
        "left": (-1, 0),
        "right": (1, 0),
        "up": (0, -1),
        "down": (0, 1),
    }.get(motion, (0, 0))
    if motion in ("clockwise", "counter_clockwise"):
        turned = frames / rng.uniform(*_FRAMES_A_TURN)
        turns = turns + (turned if motion == "clockwise" else -turned)
    elif motion in ("approach", "recede"):
        zoom = zoom + (periods if motion == "approach" else -periods)
    angle = 2 * np.pi * turns
    # From the screen's axes to the tiles'.
    x = x + periods * (right * np.cos(angle) + down * np.sin(angle))
    y = y + periods * (down * np.cos(angle) - right * np.sin(angle))
    smallest, largest = TILE_SIDES
    tile = smallest * (largest / smallest) ** (zoom % 1)
    still = np.zeros(num_frames)
    return CameraPath(x % 1 + still, y % 1 + still, tile + still, angle + still)


Floats = NDArray[np.floating[Any]]

# Radius of the shape in a tile, in units of the tile's side: neighbors don't touch.
_RADIUS = 0.36
# Gray levels: shapes are bright and backgrounds dark, with a grain that stays. On top comes noise
# that changes with every frame: the bits of _NOISE. Nothing exceeds a byte.
_BACKGROUND, _GRAIN = (5, 75), 16
_BRIGHT, _DIM = (190, 240), (100, 160)
_NOISE = 0b1111

# How far inside the shape a point is, in radii; at most 1, negative outside. u and v are its
# coordinates in radii, turned with the shape.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda u, v: 1 - np.hypot(u, v),
    "square": lambda u, v: 0.85 - np.maximum(abs(u), abs(v)),
    "diamond": lambda u, v: (1 - abs(u) - abs(v)) / np.float32(np.sqrt(2)),
    "cross": lambda u, v: np.minimum(
        0.95 - np.maximum(abs(u), abs(v)), 0.4 - np.minimum(abs(u), abs(v))
    ),
    "ring": lambda u, v: 0.3 - abs(np.hypot(u, v) - 0.7),
}
# The share of the first of the shape's two colors.
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stripes": lambda u, v: (np.sin(7 * u) > 0).astype(np.float32),
    "checks": lambda u, v: (np.sin(5 * u) * np.sin(5 * v) > 0).astype(np.float32),
    "halves": lambda u, v: (u > 0).astype(np.float32),
    "gradient": lambda u, v: (u + 1) / 2,
}


def render(
    path: CameraPath, *, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw all frames of a path: RGB [T, H, W, 3]; how things look is drawn from ``rng``."""
    shape = SHAPES[rng.choice(list(SHAPES))]
    texture = TEXTURES[rng.choice(list(TEXTURES))]
    colors = np.stack([rng.integers(*_BRIGHT, 3), rng.integers(*_DIM, 3)]).astype(np.float32)
    background = _background(height, width, rng=rng)
    radius = (_RADIUS * min(height, width) * path.tile).astype(np.float32)[:, None, None]

    u, v = _from_nearest_tile(path, height=height, width=width)
    # The edge is one pixel wide: the share of a pixel that the shape covers.
    cover = np.clip(shape(u, v) * radius + 0.5, 0, 1)[..., None]
    mix = np.clip(texture(u, v), 0, 1)[..., None]
    front = colors[1] + mix * (colors[0] - colors[1])
    frames = (background + cover * (front - background)).astype(np.uint8)
    noise = np.frombuffer(rng.bytes(frames.size), np.uint8) & _NOISE
    return frames + noise.reshape(frames.shape)


def _from_nearest_tile(path: CameraPath, *, height: int, width: int) -> tuple[Floats, Floats]:
    """Two coordinates [T, H, W] of each pixel from the nearest tile's center, in radii."""
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    x, y, tile, angle = (
        part.astype(np.float32)[:, None, None] for part in (path.x, path.y, path.tile, path.angle)
    )
    pixels_a_tile = tile * min(height, width)
    right = (np.arange(width, dtype=np.float32) - middle_column) / pixels_a_tile
    down = (np.arange(height, dtype=np.float32)[:, None] - middle_row) / pixels_a_tile
    along_x = np.cos(angle) * right + np.sin(angle) * down - x
    along_y = np.cos(angle) * down - np.sin(angle) * right - y
    return (along_x - np.round(along_x)) / _RADIUS, (along_y - np.round(along_y)) / _RADIUS


def _background(height: int, width: int, *, rng: np.random.Generator) -> NDArray[np.float32]:
    """A few plane waves in each color, and grain: [H, W, 3]."""
    rows, columns = np.mgrid[:height, :width] / min(height, width)
    waves = rng.uniform(-3, 3, (2, 4, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (4, 3))
    swing = np.cos(
        2 * np.pi * (rows[..., None, None] * waves[0] + columns[..., None, None] * waves[1])
        + phases
    ).mean(axis=2)
    low, high = _BACKGROUND
    grain = rng.uniform(0, _GRAIN, (height, width, 1))
    return ((low + high) / 2 + (high - low) / 2 * swing + grain).astype(np.float32)


# (height, width); all even, as yuv420p wants them.
_FRAME_SIZES = ((72, 96), (80, 80), (96, 72), (64, 96), (72, 72), (96, 64))
_LENGTHS = (24, 60)
_FPS = (12, 15, 20, 24, 25, 30)
_X264 = {"preset": "veryfast", "crf": "20"}
_MPEG4 = {"b": "2M"}
# (suffix, encoder, its options)
_KINDS = (
    (".mp4", "libx264", _X264),
    (".mkv", "libx264", _X264),
    (".mp4", "mpeg4", _MPEG4),
    (".avi", "mpeg4", _MPEG4),
)
# To be raised when the same seed gives other videos.
_VERSION = 2


@dataclass(frozen=True)
class MotionRecipe:
    """What determines a motion data set.

    Attributes:
        seed: of all choices; splits share none.
        train: videos of the training split.
        val: videos of the validation split.
        test: videos of the test split.
    """

    seed: int = 0
    train: int = 640
    val: int = 64
    test: int = 160

    @property
    def counts(self) -> Mapping[str, int]:
        """Videos of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}


def make_motion_dataset(folder: str | Path, recipe: MotionRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` holds it already.

    Args:
        folder: gets train.csv, val.csv, test.csv, classes.json ({name: label}) and the videos.
        recipe: the same recipe gives the same frames.
        num_workers: processes.

    Returns:
        Whether it had to be written.

    Raises:
        UserError: ``folder`` holds something else.
    """
    description = {"dataset": "motion", "version": _VERSION, **asdict(recipe)}

    def write(empty: Path) -> None:
        for split in recipe.counts:
            (empty / split).mkdir()
        _write_splits(empty, recipe, num_workers=num_workers)
        classes = {name: label for label, name in enumerate(CLASSES)}
        (empty / "classes.json").write_text(json.dumps(classes, indent=2) + "\n")

    return make_folder_atomically(Path(folder), description, write)


def _write_splits(folder: Path, recipe: MotionRecipe, *, num_workers: int) -> None:
    with ProcessPoolExecutor(num_workers) as pool:
        for number, (split, count) in enumerate(recipe.counts.items()):
            write = partial(_write_one, folder, split, seed=(recipe.seed, number))
            lines = pool.map(write, range(count), chunksize=8)
            (folder / f"{split}.csv").write_text("".join(lines))


def _write_one(folder: Path, split: str, index: int, *, seed: tuple[int, int]) -> str:
    """Write a video, and return its line of the CSV file."""
    rng = np.random.default_rng((*seed, index))
    label = index % len(CLASSES)
    height, width = _FRAME_SIZES[rng.integers(len(_FRAME_SIZES))]
    suffix, codec, options = _KINDS[rng.integers(len(_KINDS))]
    fps = _FPS[rng.integers(len(_FPS))]
    num_frames = int(rng.integers(_LENGTHS[0], _LENGTHS[1] + 1))
    path = draw_camera_path(label, num_frames=num_frames, rng=rng)
    frames = render(path, height=height, width=width, rng=rng)
    name = f"{split}/{index:05d}{suffix}"
    write_video(folder / name, frames, fps=fps, codec=codec, options=options)
    return f"{name} {label}\n"


_HEIGHT, _WIDTH, _K400_FPS, _SECONDS = 256, 340, 30, 10
# A key frame about every 70 frames, as in the files that are passed around, and B-frames.
_H264 = {"preset": "fast", "crf": "23", "g": "70", "bf": "3"}
# The camera's way over the picture: how far it strays (in halves of the picture), turns and zooms.
_STRAY, _TURN, _ZOOM = 0.3, 0.2, 0.1
_K400_GRAIN = 6.0


def write_k400_shaped(folder: Path, *, count: int, num_workers: int = 2) -> list[Path]:
    """Write videos of 10 s, 340x256, 30 frames a second, H.264, in a shaking, turning camera."""
    paths = [folder / f"k400_shaped_{index}.mp4" for index in range(count)]
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(_write_k400_shaped, paths, range(count)))
    return paths


def _write_k400_shaped(path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    write_video(path, _frames(seed), fps=_K400_FPS, options=_H264)


def _frames(seed: int) -> Iterator[NDArray[np.uint8]]:
    """What a camera held by hand sees of one large picture."""
    rng = np.random.default_rng(seed)
    still = draw_camera_path(seed % len(CLASSES), num_frames=1, rng=rng)
    picture = render(still, height=2 * _HEIGHT, width=2 * _WIDTH, rng=rng)
    source = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    speeds, phases = rng.uniform(0.5, 2.0, 4), rng.uniform(0, 2 * np.pi, 4)
    for frame in range(_K400_FPS * _SECONDS):
        x, y, turn, zoom = np.sin(2 * np.pi * speeds * frame / (_K400_FPS * _SECONDS) + phases)
        scale, angle = 0.5 + _ZOOM * zoom, _TURN * turn
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        view = torch.tensor([[[cos, -sin, _STRAY * x], [sin, cos, _STRAY * y]]]).float()
        grid = F.affine_grid(view, [1, 3, _HEIGHT, _WIDTH], align_corners=False)
        seen = F.grid_sample(source, grid, padding_mode="reflection", align_corners=False)
        grain = rng.normal(0, _K400_GRAIN, (_HEIGHT, _WIDTH, 1))
        yield (seen[0].permute(1, 2, 0).numpy() + grain).clip(0, 255).astype(np.uint8)
