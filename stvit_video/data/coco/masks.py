"""Masks to pixels and back, by pycocotools, which is an extra of this package."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stvit_video.data.coco.annotations import Segmentation
from stvit_video.errors import UserError


def require_pycocotools() -> None:
    """Check that pycocotools is there.

    Raises:
        UserError: it is not.
    """
    if find_spec("pycocotools") is None:
        raise UserError(
            'the data set "coco" needs pycocotools: pip install pycocotools, or install '
            "stvit_video[coco]"
        )


def decode_mask(segmentation: Segmentation, *, height: int, width: int) -> Tensor:
    """Draw polygons or a run-length encoding as a uint8 mask ``[height, width]`` of 0 and 1.

    Raises:
        ValueError: the encoding is damaged.
    """
    from pycocotools import mask

    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = mask.frPyObjects(segmentation, height, width)
    return torch.from_numpy(mask.decode(encoded))


def encode_mask(pixels: Tensor) -> dict[str, Any]:
    """Give the run-length encoding of a mask ``[height, width]``, as COCO's results have it."""
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(pixels.cpu().numpy().astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
