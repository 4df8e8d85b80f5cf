"""Drawing what the camera sees of a tiled plane, in front of a textured, noisy background.

Letters: T frames, H W size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stvit_video.data.synthetic.camera import CameraPath

Floats = NDArray[np.floating[Any]]

# Radius of the shape in a tile, in units of the tile's side: neighbours don't touch.
_RADIUS = 0.36
# Grey levels: shapes are bright and backgrounds dark, with a grain that stays. On top comes noise
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
# The share of the first of the shape's two colours.
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
    colours = np.stack([rng.integers(*_BRIGHT, 3), rng.integers(*_DIM, 3)]).astype(np.float32)
    background = _background(height, width, rng=rng)
    radius = (_RADIUS * min(height, width) * path.tile).astype(np.float32)[:, None, None]

    u, v = _from_nearest_tile(path, height=height, width=width)
    # The edge is one pixel wide: the share of a pixel that the shape covers.
    cover = np.clip(shape(u, v) * radius + 0.5, 0, 1)[..., None]
    mix = np.clip(texture(u, v), 0, 1)[..., None]
    front = colours[1] + mix * (colours[0] - colours[1])
    frames = (background + cover * (front - background)).astype(np.uint8)
    noise = np.frombuffer(rng.bytes(frames.size), np.uint8) & _NOISE
    return frames + noise.reshape(frames.shape)


def _from_nearest_tile(path: CameraPath, *, height: int, width: int) -> tuple[Floats, Floats]:
    """Two coordinates [T, H, W] of each pixel from the nearest tile's centre, in radii."""
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
    """A few plane waves in each colour, and grain: [H, W, 3]."""
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
