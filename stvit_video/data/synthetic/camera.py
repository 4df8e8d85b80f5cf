"""How the camera of each class moves; pure arithmetic.

Eight classes in four pairs, of which each is the other played backwards. Everything that one
frame shows (the scene's offset, angle and scale) is uniformly distributed, independently, and the
same for all classes at all times, because the scene is periodic in all of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Neighbours (0 and 1, 2 and 3, ...) are opposites. Directions are those in which the picture moves
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

    The centre of a tile is at (x, y) from the middle of the frame, and the tiles are turned by
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
