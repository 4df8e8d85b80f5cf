"""The layer in which one kind of token gathers from another."""

from ..layers.attention import Attention
from ..layers.block import BlockSpec, TransformerLayer


class GatheringLayer(TransformerLayer):
    """A transformer layer whose queries are other tokens than its keys and values.

    One norm serves both, and the parameters are those of a dense block.

    Args:
        spec: what the layers of its stage have in common.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
    """

    attn: Attention

    def __init__(
        self, spec: BlockSpec, *, drop_path: float = 0.0, layer_scale: float = 0.0
    ) -> None:
        attention = Attention(spec.dim, num_heads=spec.num_heads)
        super().__init__(spec, attention=attention, drop_path=drop_path, layer_scale=layer_scale)
