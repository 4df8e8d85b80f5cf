"""RoIAlign over the maps of a pyramid whose strides are known."""

import math
from collections.abc import Sequence

from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

# Of the feature pyramid's paper: a box of 224 pixels is pooled from the map of stride 16.
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4


class PyramidRoIAlign(MultiScaleRoIAlign):
    """torchvision's pooling, which would take the strides from the first batch that it sees.

    It compares maps with images without their padding there, so a first batch of small images
    with much padding would make all later ones be pooled at wrong places.

    Args:
        strides: of the maps "0", "1", ..., rising powers of two.
        side: rows and columns of what is pooled.
    """

    def __init__(self, strides: Sequence[int], *, side: int) -> None:
        super().__init__([str(index) for index in range(len(strides))], side, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.map_levels = initLevelMapper(
            first, last, canonical_scale=_CANONICAL_SIDE, canonical_level=_CANONICAL_LEVEL
        )
