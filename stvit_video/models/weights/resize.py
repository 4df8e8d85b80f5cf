"""Fitting weights of one shape to another: images to videos, one window to another."""

from math import isqrt, prod

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]


def inflate_patch_embed(weight: Tensor, *, frames: int) -> Tensor:
    """Spread a patch embedding of images over frames, so that a still video gives the same.

    Args:
        weight: ``[C, 3, h, w]``.
        frames: frames of a patch.

    Returns:
        ``[C, 3, frames, h, w]``, the weight divided by ``frames`` in each frame (I3D; Video
        Swin Transformer, section 3.3).
    """
    return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames


def inflate_bias_table(table: Tensor, *, window: Size) -> Tensor | None:
    """Fit the bias table of a window of images to one of videos.

    The table is resized (bicubic) where the sides differ, and repeated for each distance in
    time (Video Swin Transformer, section 3.3).

    Args:
        table: ``[(2h - 1) (2w - 1), heads]`` of a square window.
        window: frames, rows and columns of the new window.

    Returns:
        ``[(2 T - 1) (2 H - 1) (2 W - 1), heads]``, or None if the table is not square.
    """
    side = isqrt(len(table))
    if side * side != len(table):
        return None
    frames, height, width = (2 * size - 1 for size in window)
    plane = table.T.reshape(1, -1, side, side)
    if (side, side) != (height, width):
        plane = F.interpolate(plane, size=(height, width), mode="bicubic", align_corners=False)
    return plane.flatten(2)[0].T.repeat(frames, 1)


def resize_bias_table(table: Tensor, *, window: Size) -> Tensor | None:
    """Fit the bias table of a window of videos to another window, in time or in space.

    Which of the two differs is told by the number of rows: time if that leaves the same
    square, else space.

    Args:
        table: ``[(2t - 1) (2h - 1) (2w - 1), heads]``.
        window: frames, rows and columns of the new window.

    Returns:
        ``[(2 T - 1) (2 H - 1) (2 W - 1), heads]``, or None if the window cannot be told.
    """
    frames, height, width = (2 * size - 1 for size in window)
    rows, heads = table.shape
    if rows % (height * width) == 0 and (rows // (height * width)) % 2:
        old = (rows // (height * width), height, width)
    elif rows % frames == 0 and isqrt(rows // frames) ** 2 == rows // frames:
        old = (frames, isqrt(rows // frames), isqrt(rows // frames))
    else:
        return None
    volume = table.T.reshape(heads, *old)
    if old[0] != frames:
        columns = volume.flatten(2).transpose(1, 2)  # [heads, h w, t]
        columns = F.interpolate(columns, size=frames, mode="linear", align_corners=False)
        volume = columns.transpose(1, 2).unflatten(2, old[1:])
    if old[1:] != (height, width):
        volume = F.interpolate(volume, size=(height, width), mode="bicubic", align_corners=False)
    assert prod(volume.shape[1:]) == frames * height * width
    return volume.flatten(1).T
