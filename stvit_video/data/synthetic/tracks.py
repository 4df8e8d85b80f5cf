"""How the sprite of each class moves; pure arithmetic.

Eight classes in four pairs, of which each is the other played backwards. Everything that one
frame shows (place, size and angle of the sprite) is uniformly distributed, independently, and the
same for all classes at all times: every motion runs round a closed track from a random point on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Neighbours (0 and 1, 2 and 3, ...) are opposites. Directions are those on the screen.
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
# Diameter of the sprite, in units of the frame's short side.
SIZES = (0.2, 0.45)
# Once round a track takes this many frames.
_FRAMES_A_ROUND = (16.0, 26.0)
# Radius of the circle, in units of the lattice's period.
_RADIUS = 0.3


@dataclass(frozen=True)
class Track:
    """Place, size and angle of a sprite in each of T frames.

    The plane is tiled with copies of the sprite, like a wallpaper: one that leaves a tile on the
    right comes into it on the left, and every part of the picture as large as a tile shows the
    same motion.

    Attributes:
        x: [T] rightwards, in tiles; only the fraction matters.
        y: [T] downwards, in tiles.
        size: [T] diameter, in units of the frame's short side.
        angle: [T] in radians, clockwise.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    size: NDArray[np.float64]
    angle: NDArray[np.float64]


def draw_track(label: int, *, num_frames: int, rng: np.random.Generator) -> Track:
    """Draw a track of the class ``CLASSES[label]``."""
    x, y, size_phase, angle_phase = rng.uniform(size=(4, 1))
    rounds = np.arange(num_frames) / rng.uniform(*_FRAMES_A_ROUND)
    motion = CLASSES[label]
    if motion in ("left", "right"):
        x = x + (rounds if motion == "right" else -rounds)
    elif motion in ("up", "down"):
        y = y + (rounds if motion == "down" else -rounds)
    elif motion in ("clockwise", "counter_clockwise"):
        angle_phase = angle_phase + (rounds if motion == "clockwise" else -rounds)
        turn = 2 * np.pi * (angle_phase + rng.uniform())
        x, y = x + _RADIUS * np.cos(turn), y + _RADIUS * np.sin(turn)
    else:
        size_phase = size_phase + (rounds if motion == "approach" else -rounds)
    smallest, largest = SIZES
    size = smallest * (largest / smallest) ** (size_phase % 1)
    still = np.zeros(num_frames)
    return Track(x % 1 + still, y % 1 + still, size + still, 2 * np.pi * angle_phase + still)
