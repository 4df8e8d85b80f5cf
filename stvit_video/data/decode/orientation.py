"""Turning a frame upright as its display matrix says."""

import numpy as np
from numpy.typing import NDArray

# Share of the matrix' size below which an entry counts as zero: about one degree, as in ffmpeg.
_TOLERANCE = 0.02


def upright(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Apply the turns by 90 degrees and the mirrorings of a display matrix, as ffmpeg does.

    Args:
        pixels: [H, W, C].
        matrix: [9] 16.16 fixed point, row by row; a pixel at (x, y) is shown at
            (a x + c y, b x + d y), with (a, b, _, c, d) its first entries, y downwards.

    Returns:
        A view of ``pixels``, [H, W, C] or [W, H, C].

    Raises:
        ValueError: the matrix turns by something else than a multiple of 90 degrees.
    """
    a, b, _, c, d = (float(entry) for entry in matrix[:5])
    small = _TOLERANCE * max(abs(a), abs(b), abs(c), abs(d))
    if abs(b) <= small and abs(c) <= small and a and d:
        mirror_x, mirror_y = a < 0, d < 0
    elif abs(a) <= small and abs(d) <= small and b and c:
        pixels = pixels.transpose(1, 0, 2)
        mirror_x, mirror_y = c < 0, b < 0
    else:
        raise ValueError("its display matrix turns by something else than a multiple of 90 degrees")
    return pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
