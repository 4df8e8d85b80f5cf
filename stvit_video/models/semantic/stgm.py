"""Semantic token generation module (paper, section 3.1, equations 1 to 3).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels;
I J windows along rows and columns, q q semantic tokens of a window.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.block import BlockSpec, Residual
from ..layers.in_place import add_branch
from ..layers.pieces import rows_of_a_piece
from .centers import learned_centers, tile_centers
from .gathering import GatheringLayer
from .keys import KeyPlan, gather_keys, plan_keys
from .pooling import SpatialPooling
from .reach import Reach
from .regions import KeyRanges, Windows, key_ranges


class SemanticTokenLayer(GatheringLayer):
    """A transformer layer in which semantic tokens gather from image tokens.

    Queries are the semantic tokens; keys and values are image tokens and, beside them, semantic
    tokens of a key window around each window. Keys and values are projected once a token and
    gathered into (overlapping) windows afterwards.

    Args:
        spec: what the layers of its stage have in common.
        windows: how an axis is cut into windows and semantic tokens.
        key_window: side of the key window in image tokens; None for the whole grid.
        semantic_keys: semantic tokens are keys and values too.
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial layer scale of both branches; 0 for none.
        shortcut: queries are added to what they gather; without, they are replaced by it.
        reach: says which image tokens, and no others, are seen, instead of ``key_window``.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        windows: Windows,
        key_window: int | None,
        semantic_keys: bool = True,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        shortcut: bool = True,
        reach: Reach | None = None,
    ) -> None:
        super().__init__(spec, drop_path=drop_path, layer_scale=layer_scale)
        self.windows = windows
        self.key_window = key_window
        self.semantic_keys = semantic_keys
        self.shortcut = shortcut
        self.reach = reach
        if not shortcut:  # what is dropped must leave something behind
            self.residual1 = Residual(spec.dim, drop_path=0.0, layer_scale=layer_scale)

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
        x = semantic_tokens if queries is None else queries
        if self.reach is None:
            attended = self._attend(x, semantic_tokens, image_tokens)
        else:
            reach = partial(self.reach, self.attn, self.norm1)
            attended = self._by_frames(reach, x, image_tokens)
        branch = self.residual1(attended)
        return self.feed_forward(add_branch(x, branch) if self.shortcut else branch)

    def _attend(self, x: Tensor, semantic_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """Let queries ``[N, h, w, C]`` gather from both; key windows are moved inwards."""
        rows, columns = (
            key_ranges(self.windows, size=size, key_window=self.key_window)
            for size in _grid(image_tokens)
        )
        normed = self.norm1(x)
        keys = [image_tokens]
        if self.semantic_keys:
            keys.append(normed if x is semantic_tokens else self.norm1(semantic_tokens))
        plan = plan_keys(
            rows,
            columns,
            semantic=_grid(semantic_tokens) if self.semantic_keys else None,
            image=_grid(image_tokens),
            device=x.device,
        )
        windows = _to_windows(self.attn.project_queries(normed), rows, columns)
        gather = partial(self._gather, plan)
        gathered = self._by_frames(gather, windows.unflatten(0, (len(x), -1)), *keys)
        return _from_windows(self.attn.proj(gathered.flatten(0, 1)), x.shape, rows, columns)

    def _gather(
        self, plan: KeyPlan | None, queries: Tensor, image_tokens: Tensor, *normed: Tensor
    ) -> Tensor:
        """Let windows of queries ``[N, M, q q, C]`` gather from the tokens of their frames."""
        tokens = [x.flatten(1, 2) for x in (*normed, self.norm1(image_tokens))]
        keys_values = self.attn.project_keys_values(torch.cat(tokens, dim=1))
        gathered = self.attn.gather(queries.flatten(0, 1), gather_keys(keys_values, plan))
        return gathered.view_as(queries)

    def _by_frames(self, work: Callable[..., Tensor], x: Tensor, *keys: Tensor) -> Tensor:
        """Apply ``work`` to a few frames at a time; ``keys`` begins with the image tokens."""
        # Keys and values have twice the channels, and a token is in about two key windows.
        size = rows_of_a_piece(len(x), device=x.device, numbers=4 * keys[0][0].numel())
        if size == len(x):
            return work(x, *keys)
        frames = zip(*(tokens.split(size) for tokens in (x, *keys)), strict=True)
        return torch.cat([work(*piece) for piece in frames])


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


def _grid(x: Tensor) -> tuple[int, int]:
    # While a model is traced its sizes are tensors, by which no plan would be found again.
    return int(x.shape[1]), int(x.shape[2])


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
