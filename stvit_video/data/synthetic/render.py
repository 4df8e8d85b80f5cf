"""Drawing a sprite on its track over a textured, noisy background.

Letters: T frames, H W size, M pixels that the sprite may cover, in all frames together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stvit_video.data.synthetic.tracks import Track

Floats = NDArray[np.floating[Any]]

# Side of a tile (see `Track`), in units of the frame's short side.
TILE = 0.75
# Grey levels: sprites are bright and backgrounds dark, with a grain that stays. On top comes noise
# that changes with every frame: the bits of _NOISE. Nothing exceeds a byte.
_BACKGROUND, _GRAIN = (5, 75), 16
_BRIGHT, _DIM = (190, 240), (140, 200)
_NOISE = 0b1111

# How far inside the shape a point is, in radii; at most 1, negative outside. u and v are its
# coordinates in radii, turned with the sprite.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda u, v: 1 - np.hypot(u, v),
    "square": lambda u, v: 0.85 - np.maximum(abs(u), abs(v)),
    "diamond": lambda u, v: (1 - abs(u) - abs(v)) / np.float32(np.sqrt(2)),
    "cross": lambda u, v: np.minimum(
        0.95 - np.maximum(abs(u), abs(v)), 0.4 - np.minimum(abs(u), abs(v))
    ),
    "ring": lambda u, v: 0.3 - abs(np.hypot(u, v) - 0.7),
}
# The share of the first of the sprite's two colours.
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stripes": lambda u, v: (np.sin(7 * u) > 0).astype(np.float32),
    "checks": lambda u, v: (np.sin(5 * u) * np.sin(5 * v) > 0).astype(np.float32),
    "halves": lambda u, v: (u > 0).astype(np.float32),
    "gradient": lambda u, v: (u + 1) / 2,
}


def render(track: Track, *, height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw all frames of a track: RGB [T, H, W, 3]; how things look is drawn from ``rng``."""
    shape = SHAPES[rng.choice(list(SHAPES))]
    texture = TEXTURES[rng.choice(list(TEXTURES))]
    colours = np.stack([rng.integers(*_BRIGHT, 3), rng.integers(*_DIM, 3)]).astype(np.float32)
    background = _background(height, width, rng=rng)
    frames = np.repeat(background[None], len(track.x), axis=0)

    place, u, v, radius = _pixels_near_sprite(track, height=height, width=width)
    # The edge is one pixel wide: the share of a pixel that the shape covers.
    cover = np.clip(shape(u, v) * radius + 0.5, 0, 1)[:, None]
    mix = np.clip(texture(u, v), 0, 1)[:, None]
    behind = frames.reshape(-1, 3).take(place, axis=0)
    sprite = colours[1] + mix * (colours[0] - colours[1])
    frames.reshape(-1, 3)[place] = (behind + cover * (sprite - behind)).astype(np.uint8)
    noise = np.frombuffer(rng.bytes(frames.size), np.uint8) & _NOISE
    return frames + noise.reshape(frames.shape)


def _pixels_near_sprite(
    track: Track, *, height: int, width: int
) -> tuple[NDArray[np.intp], Floats, Floats, Floats]:
    """Where copies of the sprite may be.

    Returns:
        The index of M pixels, counted through all frames; their two coordinates, [M], from the
        centre of the nearest copy in units of its radius; and that radius in pixels, [M].
    """
    short_side = min(height, width)
    tile = TILE * short_side
    dx = _from_nearest(np.arange(width), track.x, tile=tile)  # [T, W]
    dy = _from_nearest(np.arange(height), track.y, tile=tile)  # [T, H]
    radius = (track.size * short_side / 2).astype(np.float32)
    near = (dx**2)[:, None, :] + (dy**2)[:, :, None] < (1.5 * radius[:, None, None]) ** 2
    place = np.flatnonzero(near)
    frame, row, column = np.unravel_index(place, near.shape)
    cos, sin = np.cos(track.angle).astype(np.float32), np.sin(track.angle).astype(np.float32)
    right, down = dx[frame, column], dy[frame, row]
    u = (cos[frame] * right + sin[frame] * down) / radius[frame]
    v = (cos[frame] * down - sin[frame] * right) / radius[frame]
    return place, u, v, radius[frame]


def _from_nearest(pixels: NDArray[np.int64], centre: NDArray[np.float64], *, tile: float) -> Floats:
    """Signed distance in pixels from the nearest copy's centre, for each frame and pixel."""
    tiles = (pixels + 0.5) / tile - centre[:, None]
    return ((tiles - np.round(tiles)) * tile).astype(np.float32)


def _background(height: int, width: int, *, rng: np.random.Generator) -> NDArray[np.uint8]:
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
    return ((low + high) / 2 + (high - low) / 2 * swing + grain).astype(np.uint8)
