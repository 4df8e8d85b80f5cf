"""Images of different sizes to a batch."""

from collections.abc import Sequence
from typing import Any

import torch

# Of a backbone's last map, so that every map has whole pixels.
_MULTIPLE = 32


def collate_images(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad images at the bottom and on the right with zeros; all else becomes lists.

    Returns:
        ``image``, uint8 [B, 3, H, W] with sides that are multiples of 32, ``size`` (rows and
        columns of each without padding), and a list for each other entry of the samples.
    """
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    images = batch["image"]
    batch["size"] = [tuple(image.shape[1:]) for image in images]
    tallest, widest = (max(side) for side in zip(*batch["size"], strict=True))
    height, width = padded_size((tallest, widest))
    batch["image"] = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for padded, image in zip(batch["image"], images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return batch


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the sides of a batch whose images have sides up to ``size``."""
    rows, columns = (-(-side // _MULTIPLE) * _MULTIPLE for side in size)
    return rows, columns
