"""STViT-R: recovery of image tokens, and dumbbell units (paper, section 3.3).

Letters: B batch, T frames, N frames of all clips, H W grid of image tokens, h w grid of semantic
tokens, C channels.
"""

from torch import Tensor, nn

from stvit_video.models.layers.attention import Attention
from stvit_video.models.layers.block import BlockSpec, TransformerLayer
from stvit_video.models.semantic.key_windows import KeyWindows, attend_in_windows, grid_of


class Recovery(TransformerLayer):
    """A transformer layer in which image tokens aggregate semantic tokens (equation 6).

    Args:
        spec: what the layers of its stage have in common.
        key_windows: which semantic tokens an image token sees.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
    """

    attn: Attention

    def __init__(
        self,
        spec: BlockSpec,
        *,
        key_windows: KeyWindows,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
    ) -> None:
        attention = Attention(spec.dim, num_heads=spec.num_heads)
        super().__init__(spec, attention=attention, drop_path=drop_path, layer_scale=layer_scale)
        self.key_windows = key_windows

    def forward(self, image_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        """Update image tokens ``[N, H, W, C]`` from semantic tokens ``[N, h, w, C]``."""
        grids = zip(grid_of(image_tokens), grid_of(semantic_tokens), strict=True)
        rows, columns = (self.key_windows.along(*sizes) for sizes in grids)
        queries = self.attn.project_queries(self.norm1(image_tokens))
        keys = self.key_windows.project(
            semantic_tokens, self._project, queries=grid_of(image_tokens)
        )
        gathered = attend_in_windows(self.attn, queries, [keys], rows=rows, columns=columns)
        return self.feed_forward(image_tokens + self.residual1(gathered))

    def _project(self, semantic_tokens: Tensor) -> Tensor:
        return self.attn.project_keys_values(self.norm1(semantic_tokens))


class DumbbellUnit(nn.Module):
    """Generates semantic tokens, works on them, and recovers the image tokens.

    Args:
        generation: maps image tokens ``[B, T, H, W, C]`` to semantic tokens ``[B, T, h, w, C]``.
        semantic: blocks on semantic tokens.
        recovery: layers from image and semantic tokens to image tokens.
    """

    def __init__(
        self, generation: nn.Module, *, semantic: nn.Sequential, recovery: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.generation = generation
        self.semantic = semantic
        self.recovery = recovery

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens of the same shape."""
        return self.recover(x, self.generation(x))

    def recover(self, x: Tensor, generated: Tensor) -> Tensor:
        """Run the blocks on given semantic tokens ``[B, T, h, w, C]``, recover image tokens."""
        semantic_tokens = self.semantic(generated)
        for layer in self.recovery.values():
            x = layer(x, semantic_tokens)
        return x


class ReusingSequential(nn.Sequential):
    """Dumbbell units and blocks between them; the first unit's tokens serve all (Table 9).

    The semantic tokens that the first unit generates are the initial cluster centers of those
    of the later units.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens of the same shape."""
        reused: tuple[Tensor, ...] = ()
        for module in self:
            if isinstance(module, DumbbellUnit):
                generated = module.generation(x, *reused)
                x = module.recover(x, generated)
                reused = reused or (generated,)
            else:
                x = module(x)
        return x
