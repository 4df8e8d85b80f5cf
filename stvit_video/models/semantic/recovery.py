"""STViT-R: recovery module and dumbbell units (paper, section 3.3, equation 6).

Notation: B batch, T frames, N frames of all clips, H W grid of image tokens X, h w grid of semantic
tokens S, C channels.
"""

from torch import Tensor, nn

from stvit_video.models.layers.attention import Attention
from stvit_video.models.layers.block import BlockSpec, TransformerLayer
from stvit_video.models.semantic.key_windows import KeyWindows, attend_in_windows, grid_size


class Recovery(TransformerLayer):
    """A transformer layer in which image tokens aggregate semantic tokens.

    It reverses the generation of semantic tokens, which are the keys and values here (norms are
    omitted)::

        X^ = MHA(X, S) + X      X = FFN(X^) + X^      (6)

    Args:
        spec: settings shared by the layers of the stage.
        key_windows: semantic tokens that each image token sees.
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
        """Map X ``[N, H, W, C]`` and S ``[N, h, w, C]`` to X ``[N, H, W, C]``."""
        grids = zip(grid_size(image_tokens), grid_size(semantic_tokens), strict=True)
        rows, columns = (self.key_windows.spans(*sizes) for sizes in grids)
        queries = self.attn.project_queries(self.norm1(image_tokens))
        keys = self.key_windows.project(
            semantic_tokens, self._project_semantic_tokens, query_grid=grid_size(image_tokens)
        )
        attended = attend_in_windows(self.attn, queries, [keys], rows=rows, columns=columns)
        return self.feed_forward(image_tokens + self.residual1(attended))

    def _project_semantic_tokens(self, semantic_tokens: Tensor) -> Tensor:
        return self.attn.project_keys_values(self.norm1(semantic_tokens))


class DumbbellUnit(nn.Module):
    """Generate semantic tokens, process them, and recover the image tokens from them.

    The first part of the paper's unit, layers on image tokens, is a module of its own before it.

    Args:
        generation: maps image tokens ``[B, T, H, W, C]`` to semantic tokens ``[B, T, h, w, C]``.
        semantic: blocks on semantic tokens.
        recovery: layers that map image and semantic tokens to image tokens.
    """

    def __init__(
        self, generation: nn.Module, *, semantic: nn.Sequential, recovery: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.generation = generation
        self.semantic = semantic
        self.recovery = recovery

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens ``[B, T, H, W, C]``."""
        return self.recover(x, self.generation(x))

    def recover(self, x: Tensor, generated: Tensor) -> Tensor:
        """Map X ``[B, T, H, W, C]`` and generated S ``[B, T, h, w, C]`` to X."""
        semantic_tokens = self.semantic(generated)
        for layer in self.recovery.values():
            x = layer(x, semantic_tokens)
        return x


class ReusingSequential(nn.Sequential):
    """Dumbbell units and base blocks; later units reuse the first unit's tokens (Table 9).

    The semantic tokens that the first unit generates are the initial cluster centers of the later
    units.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens ``[B, T, H, W, C]``."""
        reused: tuple[Tensor, ...] = ()
        for module in self:
            if isinstance(module, DumbbellUnit):
                generated = module.generation(x, *reused)
                x = module.recover(x, generated)
                reused = reused or (generated,)
            else:
                x = module(x)
        return x
