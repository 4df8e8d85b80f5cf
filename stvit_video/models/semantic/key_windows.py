"""Attention in windows whose queries and keys lie on different grids.

Token generation queries image tokens with semantic tokens, recovery queries semantic tokens with
image tokens. In both, the grid of queries is cut into windows, and each window of queries attends
to a window of keys centered on it (paper, section 3.2: w_k).

Notation: B batch, T frames, N frames of all clips, H W grid of queries, h w grid of keys,
C channels; I J windows along rows and columns, a b rows and columns of a window, Q queries and
K keys of a window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stvit_video.models.layers.attention import Attention

Grid = tuple[int, int]  # rows and columns
Border = Literal["inside", "clip"]


def grid_size(x: Tensor) -> Grid:
    """Return the rows and columns of ``[N, H, W, C]``."""
    # Sizes are tensors while fvcore traces a model.
    return int(x.shape[1]), int(x.shape[2])


class Span(NamedTuple):
    """A half-open range of tokens ``[start, stop)`` along one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class QueryKeySpans(NamedTuple):
    """The queries of one window along one axis, and the keys they attend to on each key grid."""

    queries: Span
    keys: tuple[Span, ...]


class ProjectedKeys(NamedTuple):
    """Projected keys and values of a grid, from which windows gather theirs.

    Attributes:
        tokens: keys and values, ``[N, h, w, 2C]``.
        penalty: added to the logits of the keys, ``[h, w]``; None for no penalty.
    """

    tokens: Tensor
    penalty: Tensor | None = None


@dataclass(frozen=True)
class KeyWindows:
    """Windows of queries, each with a window of keys centered on it, alike along rows and columns.

    Attributes:
        side: side of a window of keys; None if every query sees the whole grid.
        queries: side of a window of queries.
        keys: number of keys along the stretch that a window of queries covers.
        border: treatment of windows of keys at the border of their grid: ``inside`` moves them
            inwards, so that all hold the same number of keys, ``clip`` truncates them. Neither
            needs padding or a mask.
    """

    side: int | None = None
    queries: int = 1
    keys: int = 1
    border: Border = "inside"

    def spans(self, num_queries: int, num_keys: int) -> list[QueryKeySpans]:
        """Return the windows along an axis.

        Args:
            num_queries: length of the axis of queries.
            num_keys: length of the axis of keys.
        """
        if self.side is None or (self.border == "inside" and self.side >= num_keys):
            return [QueryKeySpans(Span(0, num_queries), (Span(0, num_keys),))]
        return [
            QueryKeySpans(
                Span(start, min(start + self.queries, num_queries)),
                (self._key_span(index, num_keys),),
            )
            for index, start in enumerate(range(0, num_queries, self.queries))
        ]

    def _key_span(self, index: int, num_keys: int) -> Span:
        assert self.side is not None
        start = index * self.keys - (self.side - self.keys) // 2
        if self.border == "inside":
            start = min(max(start, 0), num_keys - self.side)
        return Span(max(start, 0), min(start + self.side, num_keys))

    def spans_with_queries(self, num_queries: int, num_keys: int) -> list[QueryKeySpans]:
        """Return the windows along an axis where queries are keys too: Concat(S, X).

        The first span of keys is on the grid of queries. It covers that whole grid if the window
        sees all other keys. Otherwise it covers as many windows of queries as a window of keys can
        hold, centered on the window's own (with an even number, one more after it than before) and
        moved inwards at the border.

        Args:
            num_queries: length of the axis of queries.
            num_keys: length of the axis of the other keys.
        """
        windows = self.spans(num_queries, num_keys)
        if self.side is None or len(windows) == 1:
            return [
                QueryKeySpans(queries, (Span(0, num_queries), *keys)) for queries, keys in windows
            ]
        covered = max(1, self.side // self.keys)
        length = min(covered * self.queries, num_queries)
        result = []
        for index, (queries, keys) in enumerate(windows):
            start = (index - (covered - 1) // 2) * self.queries
            start = min(max(start, 0), num_queries - length)
            result.append(QueryKeySpans(queries, (Span(start, start + length), *keys)))
        return result

    def project(
        self, tokens: Tensor, project: Callable[[Tensor], Tensor], *, query_grid: Grid
    ) -> ProjectedKeys:
        """Project tokens ``[N, h, w, C]`` to keys and values, each token once.

        Args:
            tokens: the grid of keys.
            project: maps ``[..., C]`` to keys and values ``[..., 2C]``.
            query_grid: rows and columns of the queries; a subclass that pads needs them.
        """
        return ProjectedKeys(project(tokens))


class CrossWindowAttention(Attention):
    """Cross-window connection of semantic tokens (paper, section 3.2), frame by frame.

    Each window of tokens attends to the tokens of a larger window around it, which is moved
    inwards at the border.

    Args:
        dim: channels C.
        num_heads: attention heads.
        key_windows: windows whose queries and keys are the same tokens.
    """

    def __init__(self, dim: int, *, num_heads: int, key_windows: KeyWindows) -> None:
        super().__init__(dim, num_heads=num_heads)
        self.key_windows = key_windows

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, h, w, C]`` to ``[B, T, h, w, C]``."""
        frames = x.flatten(0, 1)
        grid = grid_size(frames)
        rows, columns = (self.key_windows.spans(size, size) for size in grid)
        attended = attend_in_windows(
            self,
            self.project_queries(frames),
            [self.key_windows.project(frames, self.project_keys_values, query_grid=grid)],
            rows=rows,
            columns=columns,
        )
        return attended.unflatten(0, x.shape[:2])


def attend_in_windows(
    attn: Attention,
    queries: Tensor,
    keys: Sequence[ProjectedKeys],
    *,
    rows: Sequence[QueryKeySpans],
    columns: Sequence[QueryKeySpans],
) -> Tensor:
    """Let the queries of each window attend to the keys of the window.

    Windows with the same numbers of queries and keys are batched. Only clipped windows at the
    border have fewer.

    Args:
        attn: attention layer that projected the queries and the keys.
        queries: projected queries, ``[N, H, W, C]``.
        keys: projected keys and values of each grid.
        rows: windows along rows; their queries cover H.
        columns: windows along columns; their queries cover W.

    Returns:
        attended values after the output projection, ``[N, H, W, C]``.
    """
    key_tokens = [grid.tokens.flatten(1, 2) for grid in keys]
    tokens = key_tokens[0] if len(key_tokens) == 1 else torch.cat(key_tokens, dim=1)
    penalties = [grid.penalty.flatten() for grid in keys if grid.penalty is not None]
    penalty = torch.cat(penalties).to(tokens.dtype) if penalties else None
    key_grids = [grid_size(grid.tokens) for grid in keys]
    bands = []
    for row_group in _group_windows(rows):
        band = []
        for column_group in _group_windows(columns):
            index = _key_indices(row_group, column_group, key_grids, device=queries.device)
            band.append(
                _attend_group(attn, queries, tokens, index, penalty, row_group, column_group)
            )
        bands.append(torch.cat(band, dim=2) if len(band) > 1 else band[0])
    return attn.proj(torch.cat(bands, dim=1) if len(bands) > 1 else bands[0])


def _group_windows(windows: Sequence[QueryKeySpans]) -> list[list[QueryKeySpans]]:
    """Merge neighbors with the same keys, then group neighbors of equal sizes."""
    merged: list[QueryKeySpans] = []
    for window in windows:
        if merged and merged[-1].keys == window.keys:
            queries = Span(merged.pop().queries.start, window.queries.stop)
            window = QueryKeySpans(queries, window.keys)
        merged.append(window)
    groups: list[list[QueryKeySpans]] = []
    for window in merged:
        if groups and _span_lengths(groups[-1][-1]) == _span_lengths(window):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups


def _span_lengths(window: QueryKeySpans) -> list[int]:
    return [span.length for span in (window.queries, *window.keys)]


def _key_indices(
    rows: Sequence[QueryKeySpans],
    columns: Sequence[QueryKeySpans],
    key_grids: Sequence[Grid],
    *,
    device: torch.device,
) -> Tensor | None:
    """Return the keys of each window as indices into the flattened grids.

    Returns:
        int64 ``[I J, K]``, or None if there is a single window that sees all keys.
    """
    whole_rows = tuple(Span(0, height) for height, _ in key_grids)
    whole_columns = tuple(Span(0, width) for _, width in key_grids)
    if len(rows) == len(columns) == 1 and (rows[0].keys, columns[0].keys) == (
        whole_rows,
        whole_columns,
    ):
        return None
    indices, offset = [], 0
    for grid, (height, width) in enumerate(key_grids):
        row_indices, column_indices = (
            span_indices(
                [window.keys[grid] for window in axis],
                length=axis[0].keys[grid].length,
                device=device,
            )
            for axis in (rows, columns)
        )
        index = window_indices(row_indices, column_indices, width=width)
        indices.append(index.flatten(2).flatten(0, 1) + offset)
        offset += height * width
    return torch.cat(indices, dim=1)


def span_indices(spans: Sequence[Span], *, length: int, device: torch.device) -> Tensor:
    """Return the positions of spans that all hold ``length`` tokens: int64 ``[spans, length]``."""
    starts = [torch.arange(start, start + length, device=device) for start, _ in spans]
    return torch.stack(starts)


def window_indices(rows: Tensor, columns: Tensor, *, width: int) -> Tensor:
    """Return the tokens of windows as indices into a flattened grid.

    Args:
        rows: rows of each window, ``[I, a]``.
        columns: columns of each window, ``[J, b]``.
        width: columns of the grid.

    Returns:
        int64 ``[I, J, a, b]``.
    """
    return rows[:, None, :, None] * width + columns[None, :, None, :]


def _attend_group(
    attn: Attention,
    queries: Tensor,
    tokens: Tensor,
    index: Tensor | None,
    penalty: Tensor | None,
    rows: Sequence[QueryKeySpans],
    columns: Sequence[QueryKeySpans],
) -> Tensor:
    """Attend in windows of equal sizes.

    Args:
        attn: attention layer.
        queries: projected queries, ``[N, H, W, C]``.
        tokens: projected keys and values of all grids, ``[N, tokens, 2C]``.
        index: keys of each window, ``[I J, K]``; None if every window sees all tokens.
        penalty: added to the logits, ``[tokens]``; None for no penalty.
        rows: the I windows along rows.
        columns: the J windows along columns.

    Returns:
        attended values before the output projection, ``[N, rows, columns, C]``.
    """
    top, bottom = rows[0].queries.start, rows[-1].queries.stop
    left, right = columns[0].queries.start, columns[-1].queries.stop
    q = queries[:, top:bottom, left:right]
    q = q.unflatten(2, (len(columns), -1)).unflatten(1, (len(rows), -1)).transpose(2, 3)
    mask = None
    if index is None:
        mask = None if penalty is None else penalty[None, None, None]
    else:
        tokens = gather_tokens(tokens, index).flatten(0, 1)
        if penalty is not None:
            mask = penalty[index][None, :, None, None].expand(q.shape[0], -1, -1, -1, -1)
            mask = mask.flatten(0, 1)
    attended = attn.attend(q.flatten(0, 2).flatten(1, 2), tokens, mask=mask)
    return attended.view(q.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Gather the tokens of each frame into windows, in one copy.

    Gradients add up where windows overlap. On CUDA the order of the sum is fixed only with
    ``torch.use_deterministic_algorithms``. (Windows cut by ``Tensor.unfold`` or by slices take
    1.7 to 3.3 times as long, backward pass included.)

    Args:
        x: ``[N, tokens, C]``.
        index: indices of tokens, of any shape.

    Returns:
        ``[N, *index.shape, C]``.
    """
    return x.index_select(1, index.flatten()).unflatten(1, index.shape)
