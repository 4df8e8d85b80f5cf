"""Generate the motion data set: short videos of a moving camera, in eight classes.

Also generate videos in the format of Kinetics-400, for benchmarks.
"""

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

# Classes 0 and 1, 2 and 3, ... are opposites. Directions are those of the picture on the screen; it
# rotates, grows and shrinks around the center of the frame.
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
# Increase when the same seed gives different videos.
_VERSION = 2

# (height, width); even, because yuv420p requires it.
_FRAME_SIZES = ((72, 96), (80, 80), (96, 72), (64, 96), (72, 72), (96, 64))
# Range of the number of frames.
_NUM_FRAMES = (24, 60)
_FPS = (12, 15, 20, 24, 25, 30)
_X264_OPTIONS = {"preset": "veryfast", "crf": "20"}
_MPEG4_OPTIONS = {"b": "2M"}
# (suffix, encoder, options of the encoder)
_FORMATS = (
    (".mp4", "libx264", _X264_OPTIONS),
    (".mkv", "libx264", _X264_OPTIONS),
    (".mp4", "mpeg4", _MPEG4_OPTIONS),
    (".avi", "mpeg4", _MPEG4_OPTIONS),
)

# Range of the side of a tile of the scene (see `CameraPath`), relative to the frame's short side. A
# tile that grows beyond the largest side continues at the smallest.
TILE_SIDES = (0.35, 0.7)
# Range of the frames per period: one tile for translations, from the smallest to the largest tile
# for growth. A full rotation takes longer, so that pixels move about as fast in all classes.
_FRAMES_PER_PERIOD = (16.0, 26.0)
_FRAMES_PER_ROTATION = (40.0, 70.0)
# Radius of the shape in a tile, relative to the tile's side; neighbors do not touch.
_RADIUS = 0.36
# Gray levels: bright shapes on a dark background with static grain. The noise changes with every
# frame, and uses the bits of _NOISE_BITS. The sum never exceeds 255.
_BACKGROUND, _GRAIN = (5, 75), 16
_BRIGHT, _DIM = (190, 240), (100, 160)
_NOISE_BITS = 0b1111

# Kinetics-like videos: size, frame rate and length of typical Kinetics-400 files.
_KINETICS_HEIGHT, _KINETICS_WIDTH = 256, 340
_KINETICS_FPS, _KINETICS_SECONDS = 30, 10
_KINETICS_FRAMES = _KINETICS_FPS * _KINETICS_SECONDS
# B-frames, and a key frame about every 70 frames, as in the copies that circulate.
_KINETICS_H264_OPTIONS = {"preset": "fast", "crf": "23", "g": "70", "bf": "3"}
# Amplitudes of the handheld camera: shift (in halves of the picture), rotation (in radians), zoom.
_SHAKE_SHIFT, _SHAKE_ROTATION, _SHAKE_ZOOM = 0.3, 0.2, 0.1
_KINETICS_NOISE_STD = 6.0

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MotionRecipe:
    """Parameters that determine a motion data set.

    Attributes:
        seed: of all random choices, which are independent between splits.
        train: number of videos of the training split.
        val: number of videos of the validation split.
        test: number of videos of the test split.
    """

    seed: int = 0
    train: int = 640
    val: int = 64
    test: int = 160

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of videos of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}


def make_motion_dataset(folder: str | Path, recipe: MotionRecipe, *, num_workers: int) -> bool:
    """Write a data set, unless ``folder`` already contains it.

    Args:
        folder: train.csv, val.csv, test.csv, classes.json ({name: label}) and the videos are
            written to it.
        recipe: the same recipe gives the same frames.
        num_workers: worker processes.

    Returns:
        Whether the data set was written.

    Raises:
        UserError: ``folder`` contains something else.
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
            write = partial(_write_random_video, folder, split, seed=(recipe.seed, number))
            lines = pool.map(write, range(count), chunksize=8)
            (folder / f"{split}.csv").write_text("".join(lines))


def _write_random_video(folder: Path, split: str, index: int, *, seed: tuple[int, int]) -> str:
    """Write a video; return its line of the CSV file."""
    rng = np.random.default_rng((*seed, index))
    label = index % len(CLASSES)
    height, width = _FRAME_SIZES[rng.integers(len(_FRAME_SIZES))]
    suffix, codec, options = _FORMATS[rng.integers(len(_FORMATS))]
    fps = _FPS[rng.integers(len(_FPS))]
    num_frames = int(rng.integers(_NUM_FRAMES[0], _NUM_FRAMES[1] + 1))
    path = draw_camera_path(label, num_frames=num_frames, rng=rng)
    frames = render(path, height=height, width=width, rng=rng)
    name = f"{split}/{index:05d}{suffix}"
    write_video(folder / name, frames, fps=fps, codec=codec, options=options)
    return f"{name} {label}\n"


@dataclass(frozen=True)
class CameraPath:
    """Path of a camera over a plane tiled with copies of a picture, in T frames.

    The center of a tile is at (x, y) from the center of the frame, and the tiles are rotated by
    ``angle`` around it.

    Attributes:
        x: [T] in tiles, along the tiles' own axes; only the fraction matters.
        y: [T] in tiles, along the tiles' own axes; only the fraction matters.
        tile: [T] side of a tile, relative to the frame's short side.
        angle: [T] in radians, clockwise.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    tile: NDArray[np.float64]
    angle: NDArray[np.float64]


def draw_camera_path(label: int, *, num_frames: int, rng: np.random.Generator) -> CameraPath:
    """Draw a random path of the class ``CLASSES[label]``."""
    x, y, zoom, rotations = rng.uniform(size=(4, 1))
    frames = np.arange(num_frames)
    periods = frames / rng.uniform(*_FRAMES_PER_PERIOD)
    motion = CLASSES[label]
    right, down = {
        "left": (-1, 0),
        "right": (1, 0),
        "up": (0, -1),
        "down": (0, 1),
    }.get(motion, (0, 0))
    if motion in ("clockwise", "counter_clockwise"):
        rotated = frames / rng.uniform(*_FRAMES_PER_ROTATION)
        rotations = rotations + (rotated if motion == "clockwise" else -rotated)
    elif motion in ("approach", "recede"):
        zoom = zoom + (periods if motion == "approach" else -periods)
    angle = 2 * np.pi * rotations
    # Convert from the screen's axes to the tiles'.
    x = x + periods * (right * np.cos(angle) + down * np.sin(angle))
    y = y + periods * (down * np.cos(angle) - right * np.sin(angle))
    smallest, largest = TILE_SIDES
    tile = smallest * (largest / smallest) ** (zoom % 1)
    # Constant coordinates are broadcast to all frames.
    zeros = np.zeros(num_frames)
    return CameraPath(x % 1 + zeros, y % 1 + zeros, tile + zeros, angle + zeros)


# How far a point lies inside the shape, in radii; at most 1, negative outside. u and v are the
# point's coordinates in the rotated frame of the shape, in radii.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda u, v: 1 - np.hypot(u, v),
    "square": lambda u, v: 0.85 - np.maximum(abs(u), abs(v)),
    "diamond": lambda u, v: (1 - abs(u) - abs(v)) / np.float32(np.sqrt(2)),
    "cross": lambda u, v: np.minimum(
        0.95 - np.maximum(abs(u), abs(v)), 0.4 - np.minimum(abs(u), abs(v))
    ),
    "ring": lambda u, v: 0.3 - abs(np.hypot(u, v) - 0.7),
}
# Weight of the first of the shape's two colors.
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stripes": lambda u, v: (np.sin(7 * u) > 0).astype(np.float32),
    "checks": lambda u, v: (np.sin(5 * u) * np.sin(5 * v) > 0).astype(np.float32),
    "halves": lambda u, v: (u > 0).astype(np.float32),
    "gradient": lambda u, v: (u + 1) / 2,
}


def render(
    path: CameraPath, *, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Render all frames of a path, RGB uint8 [T, H, W, 3], with a random appearance."""
    shape = SHAPES[rng.choice(list(SHAPES))]
    texture = TEXTURES[rng.choice(list(TEXTURES))]
    colors = np.stack([rng.integers(*_BRIGHT, 3), rng.integers(*_DIM, 3)]).astype(np.float32)
    background = _background(height, width, rng=rng)
    radius = (_RADIUS * min(height, width) * path.tile).astype(np.float32)[:, None, None]

    u, v = _tile_coordinates(path, height=height, width=width)
    # Antialiased: the share of a pixel that the shape covers.
    coverage = np.clip(shape(u, v) * radius + 0.5, 0, 1)[..., None]
    mix = np.clip(texture(u, v), 0, 1)[..., None]
    foreground = colors[1] + mix * (colors[0] - colors[1])
    frames = (background + coverage * (foreground - background)).astype(np.uint8)
    noise = np.frombuffer(rng.bytes(frames.size), np.uint8) & _NOISE_BITS
    return frames + noise.reshape(frames.shape)


def _tile_coordinates(path: CameraPath, *, height: int, width: int) -> tuple[Floats, Floats]:
    """Return each pixel's two coordinates [T, H, W] from the nearest tile's center, in radii."""
    center_row, center_column = (height - 1) / 2, (width - 1) / 2
    x, y, tile, angle = (
        values.astype(np.float32)[:, None, None]
        for values in (path.x, path.y, path.tile, path.angle)
    )
    tile_pixels = tile * min(height, width)
    right = (np.arange(width, dtype=np.float32) - center_column) / tile_pixels
    down = (np.arange(height, dtype=np.float32)[:, None] - center_row) / tile_pixels
    along_x = np.cos(angle) * right + np.sin(angle) * down - x
    along_y = np.cos(angle) * down - np.sin(angle) * right - y
    return (along_x - np.round(along_x)) / _RADIUS, (along_y - np.round(along_y)) / _RADIUS


def _background(height: int, width: int, *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a background of a few plane waves in each color, and grain: [H, W, 3]."""
    rows, columns = np.mgrid[:height, :width] / min(height, width)
    waves = rng.uniform(-3, 3, (2, 4, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (4, 3))
    wave = np.cos(
        2 * np.pi * (rows[..., None, None] * waves[0] + columns[..., None, None] * waves[1])
        + phases
    ).mean(axis=2)
    low, high = _BACKGROUND
    grain = rng.uniform(0, _GRAIN, (height, width, 1))
    return ((low + high) / 2 + (high - low) / 2 * wave + grain).astype(np.float32)


def write_kinetics_like_videos(folder: Path, *, count: int, num_workers: int = 2) -> list[Path]:
    """Write H.264 videos of a handheld camera, each 10 s of 340x256 at 30 frames per second."""
    paths = [folder / f"k400_shaped_{index}.mp4" for index in range(count)]
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(_write_kinetics_like_video, paths, range(count)))
    return paths


def _write_kinetics_like_video(path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    frames = _handheld_frames(seed)
    write_video(path, frames, fps=_KINETICS_FPS, options=_KINETICS_H264_OPTIONS)


def _handheld_frames(seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a handheld camera in front of one large picture."""
    rng = np.random.default_rng(seed)
    still = draw_camera_path(seed % len(CLASSES), num_frames=1, rng=rng)
    picture = render(still, height=2 * _KINETICS_HEIGHT, width=2 * _KINETICS_WIDTH, rng=rng)
    source = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    speeds, phases = rng.uniform(0.5, 2.0, 4), rng.uniform(0, 2 * np.pi, 4)
    for frame in range(_KINETICS_FRAMES):
        x, y, rotation, zoom = np.sin(2 * np.pi * speeds * frame / _KINETICS_FRAMES + phases)
        scale, angle = 0.5 + _SHAKE_ZOOM * zoom, _SHAKE_ROTATION * rotation
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        view = torch.tensor([[[cos, -sin, _SHAKE_SHIFT * x], [sin, cos, _SHAKE_SHIFT * y]]]).float()
        grid = F.affine_grid(view, [1, 3, _KINETICS_HEIGHT, _KINETICS_WIDTH], align_corners=False)
        pixels = F.grid_sample(source, grid, padding_mode="reflection", align_corners=False)
        noise = rng.normal(0, _KINETICS_NOISE_STD, (_KINETICS_HEIGHT, _KINETICS_WIDTH, 1))
        yield (pixels[0].permute(1, 2, 0).numpy() + noise).clip(0, 255).astype(np.uint8)
