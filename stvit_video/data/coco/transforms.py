"""What is done to images with boxes and masks, on torchvision's transforms v2.

They draw from torch's global generator, which a sample sets for itself, see
:class:`~stvit_video.data.coco.dataset.TrainingImages`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import crop, get_size


class RandomRectangleCrop(v2.Transform):
    """A rectangle at a random place, each side drawn from a range, at most that of the image.

    Args:
        sides: the shortest and the longest side, in pixels.
    """

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw the rectangle."""
        whole = get_size(flat_inputs[0])
        low, high = self.sides
        drawn = torch.randint(low, high + 1, (2,)).tolist()
        height, width = (min(side, limit) for side, limit in zip(drawn, whole, strict=True))
        top, left = (
            int(torch.randint(limit - side + 1, ()))
            for side, limit in zip((height, width), whole, strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut it out of an image, boxes or masks."""
        return self._call_kernel(crop, inpt, **params)


def train_transform(
    *,
    short_sides: Sequence[int],
    max_size: int,
    crop_short_sides: Sequence[int] = (),
    crop_range: Sequence[int] = (),
    flip: bool = True,
) -> v2.Transform:
    """Build the augmentation of Swin's detectors: many scales, or a crop and then many scales.

    Args:
        short_sides: of which one is drawn for an image.
        max_size: limit of the long side.
        crop_short_sides: short sides of which one is drawn before the crop, which half of the
            images get; empty: no crop.
        crop_range: shortest and longest side of the crop.
        flip: mirror half of the images.
    """
    scale: v2.Transform = v2.RandomShortestSize(list(short_sides), max_size)
    if crop_short_sides:
        shortest, longest = crop_range
        first = v2.RandomShortestSize(list(crop_short_sides), max_size)
        cropped = v2.Compose([first, RandomRectangleCrop((shortest, longest)), scale])
        scale = v2.RandomChoice([scale, cropped])
    # What the crop, or rounding, has left less than a pixel of is no object any more.
    steps = [scale, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)]
    return v2.Compose([v2.RandomHorizontalFlip(), *steps] if flip else steps)


def eval_transform(*, short_side: int, max_size: int) -> v2.Transform:
    """Build what validation and test do: one scale."""
    return v2.RandomShortestSize(short_side, max_size)
