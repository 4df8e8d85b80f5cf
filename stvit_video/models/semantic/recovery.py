"""Recovery of image tokens from semantic tokens (paper, section 3.3, equation 6).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..layers.attention import Attention
from ..layers.block import TransformerLayer
from ..layers.in_place import add_branch
from .reach import Reach


class Recovery(TransformerLayer):
    """A transformer block in which image tokens gather from semantic tokens.

    Queries are the image tokens; keys and values are the semantic tokens. One norm serves both,
    and the parameters are those of a dense block.

    Args:
        dim: channels C.
        num_heads: attention heads.
        reach: which semantic tokens an image token sees.
        mlp_ratio: hidden channels of the MLP as a multiple of C.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
        norm_layer: builds a norm of C channels.
    """

    attn: Attention

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reach: Reach,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__(
            dim,
            attention=Attention(dim, num_heads=num_heads),
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            layer_scale=layer_scale,
            norm_layer=norm_layer,
        )
        self.reach = reach

    def forward(self, image_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        """Update image tokens ``[N, H, W, C]`` from semantic tokens ``[N, h, w, C]``."""
        attended = self.reach(self.attn, self.norm1, image_tokens, semantic_tokens)
        return self.feed_forward(add_branch(image_tokens, self.residual1(attended)))
