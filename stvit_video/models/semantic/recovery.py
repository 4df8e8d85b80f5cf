"""Recovery of image tokens from semantic tokens (paper, section 3.3, equation 6).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels.
"""

from torch import Tensor

from ..layers.block import BlockSpec
from ..layers.in_place import add_branch
from .gathering import GatheringLayer
from .reach import Reach


class Recovery(GatheringLayer):
    """A transformer block in which image tokens gather from semantic tokens.

    Queries are the image tokens; keys and values are the semantic tokens.

    Args:
        spec: what the layers of its stage have in common.
        reach: which semantic tokens an image token sees.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        reach: Reach,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
    ) -> None:
        super().__init__(spec, drop_path=drop_path, layer_scale=layer_scale)
        self.reach = reach

    def forward(self, image_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        """Update image tokens ``[N, H, W, C]`` from semantic tokens ``[N, h, w, C]``."""
        attended = self.reach(self.attn, self.norm1, image_tokens, semantic_tokens)
        return self.feed_forward(add_branch(image_tokens, self.residual1(attended)))
