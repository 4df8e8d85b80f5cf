"""Semantic token generation module (paper, section 3.1, equations 1 to 3).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels;
I J windows along rows and columns, q q semantic tokens of a window.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.attention import Attention
from ..layers.block import Mlp, Residual
from ..layers.in_place import add_branch
from ..layers.pieces import rows_of_a_piece
from .centers import learned_centers, tile_centers
from .pooling import SpatialPooling
from .reach import Reach
from .regions import KeyRanges, Windows, key_ranges


class SemanticTokenLayer(nn.Module):
    """A transformer layer in which semantic tokens gather from image tokens.

    Queries are the semantic tokens; keys and values are image tokens and, beside them, semantic
    tokens of a key window around each window. One norm serves both, and the parameters are those
    of a dense block. Keys and values are projected once a token and gathered into (overlapping)
    windows afterwards.

    Args:
        dim: channels C.
        num_heads: attention heads.
        windows: how an axis is cut into windows and semantic tokens.
        key_window: side of the key window in image tokens; None for the whole grid.
        semantic_keys: semantic tokens are keys and values too.
        mlp_ratio: hidden channels of the MLP as a multiple of C.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
        norm_layer: builds a norm of C channels.
        shortcut: queries are added to what they gather; without, they are replaced by it.
        reach: says which image tokens, and no others, are seen, instead of ``key_window``.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        windows: Windows,
        key_window: int | None,
        semantic_keys: bool = True,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        shortcut: bool = True,
        reach: Reach | None = None,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.key_window = key_window
        self.semantic_keys = semantic_keys
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads=num_heads)
        self.shortcut = shortcut
        self.reach = reach
        # What is dropped must leave something behind.
        self.residual1 = Residual(
            dim, drop_path=drop_path if shortcut else 0.0, layer_scale=layer_scale
        )
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, ratio=mlp_ratio)
        self.residual2 = Residual(dim, drop_path=drop_path, layer_scale=layer_scale)

    def forward(
        self, semantic_tokens: Tensor, image_tokens: Tensor, queries: Tensor | None = None
    ) -> Tensor:
        """Update semantic tokens from image tokens.

        Args:
            semantic_tokens: ``[N, h, w, C]``, keys and values beside the image tokens.
            image_tokens: ``[N, H, W, C]``.
            queries: ``[N, h, w, C]``, what is updated; the semantic tokens if None.

        Returns:
            semantic tokens ``[N, h, w, C]``.
        """
        # Keys and values have twice the channels, and a token is in about two key windows.
        size = rows_of_a_piece(
            len(image_tokens), device=image_tokens.device, numbers=4 * image_tokens[0].numel()
        )
        given = (semantic_tokens, image_tokens, *(() if queries is None else (queries,)))
        pieces = [
            self._update(*frames) for frames in zip(*(x.split(size) for x in given), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _update(
        self, semantic_tokens: Tensor, image_tokens: Tensor, queries: Tensor | None = None
    ) -> Tensor:
        """Do what :meth:`forward` does, all frames at once."""
        x = semantic_tokens if queries is None else queries
        if self.reach is None:
            attended = self._attend(x, semantic_tokens, image_tokens)
        else:
            attended = self.reach(self.attn, self.norm1, x, image_tokens)
        branch = self.residual1(attended)
        x = add_branch(x, branch) if self.shortcut else branch
        return add_branch(x, self.residual2(self.mlp(self.norm2(x))))

    def _attend(self, x: Tensor, semantic_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Let queries ``[N, h, w, C]`` gather from both; key windows are moved inwards."""
        rows, columns = (
            key_ranges(self.windows, size=size, key_window=self.key_window)
            for size in image_tokens.shape[1:3]
        )
        normed = self.norm1(x)
        tokens = [self.norm1(image_tokens).flatten(1, 2)]
        if self.semantic_keys:
            semantic = normed if x is semantic_tokens else self.norm1(semantic_tokens)
            tokens.insert(0, semantic.flatten(1, 2))
        keys_values = self.attn.project_keys_values(torch.cat(tokens, dim=1))
        sizes = (semantic_tokens.shape[1:3], image_tokens.shape[1:3])
        keys_values = _gather_keys(keys_values, sizes, rows, columns)
        q = _to_windows(self.attn.project_queries(normed), rows, columns)
        return _from_windows(self.attn.attend(q, keys_values), x.shape, rows, columns)


class SemanticTokenGeneration(nn.Module):
    """Generates the semantic tokens of a frame: initial centres, then attention.

    The first layer recovers cluster centres from pooled ones (equation 1); the second adds
    learned global cluster centres to them, shared by all windows (equations 2 and 3); further
    layers repeat the second without the global centres (Table 8).

    Args:
        pooling: gives the initial cluster centres.
        layers: two or more, by the name of the dense layer whose place each takes.
        dim: channels C.
        global_centers: learn global cluster centres.
        global_windows: windows along each axis over which these differ; 1: all share them.
    """

    global_centers: Tensor | None

    def __init__(
        self,
        pooling: SpatialPooling,
        *,
        layers: Sequence[SemanticTokenLayer],
        dim: int,
        global_centers: bool = True,
        global_windows: int = 1,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = nn.ModuleList(layers)
        self.register_parameter("global_centers", None)
        if global_centers:
            self.global_centers = learned_centers(pooling.windows, dim, count=global_windows)

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[N, H, W, C]`` to semantic tokens ``[N, h, w, C]``."""
        centers = self.pooling(x)
        for index, layer in enumerate(self.layers):
            queries = None
            if index == 1 and self.global_centers is not None:
                queries = centers + tile_centers(self.global_centers, centers.shape[1:3])
            centers = layer(centers, x, queries)
        return centers


def _gather_keys(
    x: Tensor, sizes: tuple[Sequence[int], Sequence[int]], rows: KeyRanges, columns: KeyRanges
) -> Tensor:
    """Gather the keys of each window, semantic tokens first: ``[N I J, K, C]``.

    Args:
        x: all semantic tokens, if they are keys, and all image tokens, ``[N, tokens, C]``.
        sizes: (h, w) and (H, W).
        rows: keys of the windows along rows.
        columns: the same along columns.
    """
    (h, w), (height, width) = sizes
    if (rows.image_length, columns.image_length) == (height, width):
        return x
    semantic, image = x[:, : -height * width], x[:, -height * width :]
    keys = _windows(
        image.unflatten(1, (height, width)),
        (rows.image_starts, rows.image_length),
        (columns.image_starts, columns.image_length),
    )
    if not semantic.shape[1]:
        return keys
    semantic = _windows(
        semantic.unflatten(1, (h, w)),
        (rows.semantic_starts, rows.semantic_length),
        (columns.semantic_starts, columns.semantic_length),
    )
    return torch.cat([semantic, keys], dim=1)


def _windows(
    x: Tensor, rows: tuple[Sequence[int], int], columns: tuple[Sequence[int], int]
) -> Tensor:
    """Gather windows ``[N I J, tokens, C]``, given by starts and length, of ``[N, H, W, C]``.

    Slices, not an index: their gradient is a sum in a fixed order, so training is reproducible.
    """
    (tops, height), (lefts, width) = rows, columns
    windows = [x[:, top : top + height, left : left + width] for top in tops for left in lefts]
    return torch.stack(windows, dim=1).flatten(0, 1).flatten(1, 2)


def _to_windows(x: Tensor, rows: KeyRanges, columns: KeyRanges) -> Tensor:
    """Cut queries ``[N, h, w, C]`` into windows ``[N I J, q q, C]``, the last ones padded."""
    height, width = x.shape[1:3]
    below = len(rows.image_starts) * rows.queries - height
    beside = len(columns.image_starts) * columns.queries - width
    if below or beside:
        x = F.pad(x, (0, 0, 0, beside, 0, below))
    x = x.unflatten(2, (-1, columns.queries)).unflatten(1, (-1, rows.queries))
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def _from_windows(x: Tensor, shape: torch.Size, rows: KeyRanges, columns: KeyRanges) -> Tensor:
    """Undo :func:`_to_windows`: windows back to ``shape`` ``[N, h, w, C]``."""
    x = x.unflatten(1, (rows.queries, columns.queries))
    x = x.unflatten(0, (shape[0], len(rows.image_starts), len(columns.image_starts)))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : shape[1], : shape[2]]
