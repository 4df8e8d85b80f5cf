"""Semantic token generation module, STGM (paper, section 3.1, equations 1 to 3).

Notation: N frames, H W grid of image tokens X, h w grid of semantic tokens S, n m grid of global
cluster centers G, C channels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stvit_video.models.layers.attention import Attention
from stvit_video.models.layers.block import BlockSpec, Residual, TransformerLayer
from stvit_video.models.semantic.key_windows import (
    KeyWindows,
    ProjectedKeys,
    QueryKeySpans,
    attend_in_windows,
    grid_size,
)
from stvit_video.models.semantic.pooling import SpatialPooling, tile_centers

# Where global centers are added: to the queries alone (equation 2), also to the keys of semantic
# tokens (a learned position, Table 7), or also to the residual (released code, USE_GLOBAL).
CentersRole = Literal["queries", "keys", "residual"]


class SemanticTokenLayer(TransformerLayer):
    """A transformer layer in which semantic tokens aggregate image tokens.

    Equation 1, the first layer, starts from the initial cluster centers P. Equation 2, the second
    layer, adds the global cluster centers G to the queries and the semantic tokens to the keys and
    values (MHA takes queries, keys and values; norms are omitted)::

        S^ = MHA(P, X, X) + P                                   S1 = FFN(S^) + S^    (1)
        S^ = MHA(S1 + G, Concat(S1, X), Concat(S1, X)) + S1     S2 = FFN(S^) + S^    (2)

    S1 and G contribute separately to the attention map A (exact without the norm, which is that of
    S1 + G, as in the released code)::

        A_s = (S1 W_q) . (Concat(S1, X) W_k)   A_g = (G W_q) . (Concat(S1, X) W_k)
        A = Softmax(A_s + A_g)                                                       (3)

    Queries, keys and values share the first norm. Keys and values are projected once per token
    and gathered into (overlapping) windows afterwards.

    Args:
        spec: settings shared by the layers of the stage.
        key_windows: image tokens that each semantic token sees.
        semantic_keys: use semantic tokens as keys and values beside the image tokens.
        shortcut: add the semantic tokens to what they aggregate; without it they are replaced
            (released STViT-R).
        centers_role: where global centers are added besides the queries.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
    """

    attn: Attention

    def __init__(
        self,
        spec: BlockSpec,
        *,
        key_windows: KeyWindows,
        semantic_keys: bool = True,
        shortcut: bool = True,
        centers_role: CentersRole = "queries",
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
    ) -> None:
        attention = Attention(spec.dim, num_heads=spec.num_heads)
        super().__init__(spec, attention=attention, drop_path=drop_path, layer_scale=layer_scale)
        self.key_windows = key_windows
        self.semantic_keys = semantic_keys
        self.shortcut = shortcut
        self.centers_role = centers_role
        if not shortcut:
            # Dropping this branch would leave no tokens.
            self.residual1 = Residual(spec.dim, drop_path=0.0, layer_scale=layer_scale)

    def forward(
        self, tokens: Tensor, image_tokens: Tensor, global_centers: Tensor | None = None
    ) -> Tensor:
        """Map S ``[N, h, w, C]``, X ``[N, H, W, C]`` and G ``[h, w, C]`` to S ``[N, h, w, C]``.

        Args:
            tokens: semantic tokens S, or the initial cluster centers P.
            image_tokens: image tokens X.
            global_centers: global cluster centers G; None for equation 1.

        Returns:
            updated semantic tokens.
        """
        normed = self.norm1(tokens)
        centered, normed_queries = tokens, normed
        if global_centers is not None:
            centered = tokens + global_centers
            normed_queries = self.norm1(centered)
        keys = [
            self.key_windows.project(
                image_tokens, self._project_image_tokens, query_grid=grid_size(tokens)
            )
        ]
        if self.semantic_keys:
            normed_keys = normed_queries if self.centers_role == "keys" else normed
            keys.insert(0, ProjectedKeys(self._project_keys_values(normed_keys, normed)))
        rows, columns = self.query_key_spans(tokens, image_tokens)
        attended = attend_in_windows(
            self.attn,
            self.attn.project_queries(normed_queries),
            keys,
            rows=rows,
            columns=columns,
        )
        x = self.residual1(attended)
        if self.shortcut:
            x = x + (centered if self.centers_role == "residual" else tokens)
        return self.feed_forward(x)

    def query_key_spans(
        self, tokens: Tensor, image_tokens: Tensor
    ) -> tuple[list[QueryKeySpans], list[QueryKeySpans]]:
        """Return the windows along rows and columns of S ``[N, h, w, C]`` and X ``[N, H, W, C]``.

        The keys of a window are its semantic tokens, if these are keys, then its image tokens.
        """
        spans = self.key_windows.spans
        if self.semantic_keys:
            spans = self.key_windows.spans_with_queries
        (h, w), (height, width) = grid_size(tokens), grid_size(image_tokens)
        return spans(h, height), spans(w, width)

    def _project_image_tokens(self, image_tokens: Tensor) -> Tensor:
        return self.attn.project_keys_values(self.norm1(image_tokens))

    def _project_keys_values(self, keys: Tensor, values: Tensor) -> Tensor:
        if keys is values:
            return self.attn.project_keys_values(values)
        return torch.cat([self.attn.project_keys(keys), self.attn.project_values(values)], dim=-1)


class SemanticTokenGeneration(nn.Module):
    """Generate the semantic tokens of a frame from its image tokens, which stay unchanged.

    The first layer recovers cluster centers from pooled ones (equation 1), the second adds
    global centers to the queries (equations 2 and 3), and further layers repeat the second
    without global centers (Table 8).

    Args:
        pooling: pools the initial cluster centers P; None if :meth:`forward` is given them.
        first: layer of equation 1.
        second: layer of equation 2.
        further: layers of equation 2 without global centers.
        global_centers: G, ``[n, m, C]``, repeated over larger grids; None for none.
    """

    global_centers: Tensor | None

    def __init__(
        self,
        pooling: SpatialPooling | None,
        *,
        first: SemanticTokenLayer,
        second: SemanticTokenLayer,
        further: Sequence[SemanticTokenLayer] = (),
        global_centers: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.first = first
        self.second = second
        self.further = nn.ModuleList(further)
        self.register_parameter("global_centers", global_centers)

    def forward(self, x: Tensor, initial_centers: Tensor | None = None) -> Tensor:
        """Map image tokens ``[N, H, W, C]`` to semantic tokens ``[N, h, w, C]``.

        Args:
            x: image tokens X.
            initial_centers: P, ``[N, h, w, C]``, instead of pooled ones (Table 9, "reusing").
        """
        if initial_centers is None:
            assert self.pooling is not None, "without pooling, initial centers must be given"
            initial_centers = self.pooling(x)
        tokens = self.first(initial_centers, x)
        centers = self.global_centers
        if centers is not None:
            centers = tile_centers(centers, grid_size(tokens))
        tokens = self.second(tokens, x, centers)
        for layer in self.further:
            tokens = layer(tokens, x)
        return tokens
