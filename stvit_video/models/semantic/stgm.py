"""Semantic token generation module, STGM (paper, section 3.1, equations 1 to 3).

Letters: N frames, H W grid of image tokens X, h w grid of semantic tokens S, C channels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stvit_video.models.layers.attention import Attention
from stvit_video.models.layers.block import BlockSpec, Residual, TransformerLayer
from stvit_video.models.semantic.key_windows import (
    Keys,
    KeyWindows,
    Window,
    attend_in_windows,
    grid_of,
)
from stvit_video.models.semantic.pooling import SpatialPooling, tile_centers

# To what global centers are added besides the queries: to nothing else (equation 2), to the keys of
# semantic tokens (a learned position, Table 7), or to the residual (released code, USE_GLOBAL).
CentersRole = Literal["queries", "keys", "residual"]


class SemanticTokenLayer(TransformerLayer):
    """A transformer layer in which semantic tokens aggregate image tokens.

    Its first norm is that of queries, keys and values. Keys and values are projected once a
    token, and gathered into (overlapping) windows afterwards.

    Args:
        spec: what the layers of its stage have in common.
        key_windows: which image tokens a semantic token sees.
        semantic_keys: semantic tokens are keys and values too, beside the image tokens.
        shortcut: semantic tokens are added to what they aggregate; without, they are replaced by
            it (released STViT-R).
        centers_role: to what global centers are added besides the queries.
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
        if not shortcut:  # what is dropped must leave something behind
            self.residual1 = Residual(spec.dim, drop_path=0.0, layer_scale=layer_scale)

    def forward(
        self, tokens: Tensor, image_tokens: Tensor, global_centers: Tensor | None = None
    ) -> Tensor:
        """Update semantic tokens by equation 1 or 2, which differ in their keys and in G.

        Args:
            tokens: S, ``[N, h, w, C]``.
            image_tokens: X, ``[N, H, W, C]``.
            global_centers: G, ``[h, w, C]``.

        Returns:
            ``[N, h, w, C]``.
        """
        normed = self.norm1(tokens)
        centered, normed_centered = tokens, normed  # S + G
        if global_centers is not None:
            centered = tokens + global_centers
            normed_centered = self.norm1(centered)
        keys = [self.key_windows.project(image_tokens, self._project, queries=grid_of(tokens))]
        if self.semantic_keys:
            key_tokens = normed_centered if self.centers_role == "keys" else normed
            keys.insert(0, Keys(self._project_apart(key_tokens, normed)))
        rows, columns = self.windows(tokens, image_tokens)
        gathered = attend_in_windows(
            self.attn,
            self.attn.project_queries(normed_centered),
            keys,
            rows=rows,
            columns=columns,
        )
        x = self.residual1(gathered)
        if self.shortcut:
            x = x + (centered if self.centers_role == "residual" else tokens)
        return self.feed_forward(x)

    def windows(self, tokens: Tensor, image_tokens: Tensor) -> tuple[list[Window], list[Window]]:
        """Give the windows along rows and columns of ``[N, h, w, C]`` and ``[N, H, W, C]``.

        The keys of each are its semantic tokens, if these are keys, and its image tokens.
        """
        key_windows = self.key_windows
        along = key_windows.along_with_queries if self.semantic_keys else key_windows.along
        rows, columns = (
            along(*sizes) for sizes in zip(grid_of(tokens), grid_of(image_tokens), strict=True)
        )
        return rows, columns

    def _project(self, image_tokens: Tensor) -> Tensor:
        return self.attn.project_keys_values(self.norm1(image_tokens))

    def _project_apart(self, keys: Tensor, values: Tensor) -> Tensor:
        if keys is values:
            return self.attn.project_keys_values(values)
        return torch.cat([self.attn.project_keys(keys), self.attn.project_values(values)], dim=-1)


class SemanticTokenGeneration(nn.Module):
    """Generates the semantic tokens of a frame: initial centers, then attention.

    The first layer recovers cluster centers from pooled ones (equation 1), the second adds
    learned global ones to the queries (equations 2 and 3), and further layers repeat the second
    without these (Table 8). The image tokens are not updated.

    Args:
        pooling: gives the initial cluster centers P; None: they are given to :meth:`forward`.
        first: by equation 1.
        second: by equation 2.
        further: by equation 2 without global centers.
        global_centers: G, ``[n, m, C]``, which repeats over larger grids; None for none.
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
            centers = tile_centers(centers, grid_of(tokens))
        tokens = self.second(tokens, x, centers)
        for layer in self.further:
            tokens = layer(tokens, x)
        return tokens
