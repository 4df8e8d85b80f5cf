"""Resize weights: from images to videos, and from one attention window to another.

Notation: C channels; t h w old and T H W new frames, rows and columns of a window.
"""

from math import isqrt, prod

import torch.nn.functional as F
from torch import Tensor

from stvit_video.models.layers.windows import Size


def inflate_patch_embed(weight: Tensor, *, frames: int) -> Tensor:
    """Inflate a patch embedding of images to videos; a still video gives the output of the image.

    Args:
        weight: ``[C, 3, h, w]``.
        frames: frames of a patch.

    Returns:
        ``[C, 3, frames, h, w]``, in each frame the weight divided by ``frames`` (I3D; Video Swin
        Transformer, section 3.3).
    """
    return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames


def inflate_bias_table(table: Tensor, *, window: Size) -> Tensor | None:
    """Inflate the bias table of an image window to a video window.

    The table is resized (bicubic) if the sides differ, and repeated for each temporal distance
    (Video Swin Transformer, section 3.3).

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
    """Resize the bias table of a video window to another window, in time or in space.

    The number of rows shows which of the two differs: time if the rows are a multiple of the new
    window's spatial size, otherwise space.

    Args:
        table: ``[(2t - 1) (2h - 1) (2w - 1), heads]``.
        window: frames, rows and columns of the new window.

    Returns:
        ``[(2 T - 1) (2 H - 1) (2 W - 1), heads]``, or None if the old window cannot be inferred.
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
