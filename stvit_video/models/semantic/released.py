"""What the released STViT-R for detection does with padding, for weights that were trained so.

Letters: N frames, H W grid of queries or image tokens, h w grid of keys, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.attention import Attention
from .pooling import SpatialPooling
from .reach import CentredReach, CentredWindow, attend_in_windows

# What is added to the logits of padding.
_PENALTY = -1000.0


class PaddedPooling(SpatialPooling):
    """Pooling of a grid that ends in zeros up to whole windows.

    Args:
        pooling: gives the centres, those of windows of padding alone among them.
    """

    def __init__(self, pooling: SpatialPooling) -> None:
        super().__init__(pooling.windows)
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        below, beside = (-size % self.windows.side(size) for size in x.shape[1:3])
        return self.pooling(F.pad(x, (0, 0, 0, beside, 0, below)))


class PaddedReach(CentredReach):
    """Centred windows of keys that reach into padding, some of which takes part.

    The grid of image tokens ends in zeros up to whole windows, and windows of keys may leave it,
    into more zeros. A penalty is given to what lies outside, and to the corner
    ``[-below:, -beside:]`` where rows and columns of padding meet. As ``-0:`` is a whole side in
    Python, a side without padding is all corner; where neither has any, everything gets the
    penalty and it cancels. The grid of semantic tokens has the very same corner.

    Args:
        window: the same along rows and columns.
        image_window: side of the windows that the image tokens are padded to.
        recovers: image tokens are the queries, not the keys.
        penalty: without, all padding takes part (the released ``pad_mask`` off).
    """

    def __init__(
        self, window: CentredWindow, *, image_window: int, recovers: bool, penalty: bool = True
    ) -> None:
        super().__init__(window)
        self.image_window = image_window
        self.recovers = recovers
        self.penalty = penalty

    def __call__(self, attn: Attention, norm: nn.Module, queries: Tensor, keys: Tensor) -> Tensor:
        """As :meth:`~.reach.Reach.__call__`."""
        image = queries if self.recovers else keys
        below, beside = (-size % self.image_window for size in image.shape[1:3])
        if not self.recovers:
            keys = F.pad(keys, (0, 0, 0, beside, 0, below))
        rows, columns = (self.window.padded_spans(size) for size in queries.shape[1:3])
        full, before = (rows[-1][1].stop, columns[-1][1].stop), self.window.before
        height, width = keys.shape[1:3]
        inside = (slice(before, before + height), slice(before, before + width))
        zeros = attn.project_keys_values(norm(torch.zeros_like(keys[:1, :1, :1])))
        keys_values = zeros.expand(len(keys), *full, -1).clone()
        keys_values[:, inside[0], inside[1]] = attn.project_keys_values(norm(keys))
        penalty = None
        if self.penalty:
            penalty = keys_values.new_full(full, _PENALTY)
            penalty[inside] = 0
            penalty[inside][-below:, -beside:] = _PENALTY
        projected = attn.project_queries(norm(queries))
        return attend_in_windows(
            attn, projected, keys_values, rows=rows, columns=columns, penalty=penalty
        )
