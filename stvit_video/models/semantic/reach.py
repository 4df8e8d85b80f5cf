"""Which keys the queries of a window reach, where queries and keys stand on different grids.

Letters: N frames, H W grid of queries, h w grid of keys, C channels; M windows, Q queries, K keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.attention import Attention
from ..layers.pieces import rows_of_a_piece


class Span(NamedTuple):
    """The tokens of a window along one axis: the first, and the one after the last."""

    start: int
    stop: int


@dataclass(frozen=True)
class CentredWindow:
    """Windows of keys that stay centred on the windows of queries, along one axis.

    Attributes:
        side: of a window of keys.
        queries: side of a window of queries.
        keys: tokens of the keys' grid over the same stretch.
    """

    side: int
    queries: int
    keys: int

    @property
    def before(self) -> int:
        """Keys before the stretch; after it stands one more if they cannot be halved."""
        return (self.side - self.keys) // 2

    def spans(self, queries: int, keys: int) -> list[tuple[Span, Span]]:
        """Give the queries and the keys of each window, both cut off where their axis ends.

        Args:
            queries: length of the queries' axis.
            keys: length of the keys' axis.
        """
        return [
            (own, Span(max(reach.start - self.before, 0), min(reach.stop - self.before, keys)))
            for own, reach in self.padded_spans(queries)
        ]

    def padded_spans(self, queries: int) -> list[tuple[Span, Span]]:
        """Do the same without cutting off keys; the first window of keys begins at 0."""
        return [
            (Span(start, min(start + self.queries, queries)), Span(first, first + self.side))
            for start, first in zip(
                range(0, queries, self.queries), count(0, self.keys), strict=False
            )
        ]


class Reach:
    """Lets each query attend to every key of its frame."""

    def __call__(self, attn: Attention, norm: nn.Module, queries: Tensor, keys: Tensor) -> Tensor:
        """Let queries ``[N, H, W, C]`` attend to keys ``[N, h, w, C]``.

        Args:
            attn: projects and attends.
            norm: of queries and keys.
            queries: tokens.
            keys: tokens, which are the values too.

        Returns:
            what the queries gathered, ``[N, H, W, C]``.
        """
        keys_values = attn.project_keys_values(norm(keys)).flatten(1, 2)
        gathered = attn.attend(attn.project_queries(norm(queries)).flatten(1, 2), keys_values)
        return gathered.view_as(queries)


class CentredReach(Reach):
    """Lets queries attend to a window of keys around theirs, cut off where the grid ends.

    No window holds padding, so none needs a mask.

    Args:
        window: the same along rows and columns.
    """

    def __init__(self, window: CentredWindow) -> None:
        self.window = window

    def __call__(self, attn: Attention, norm: nn.Module, queries: Tensor, keys: Tensor) -> Tensor:
        """As :meth:`Reach.__call__`."""
        keys_values = attn.project_keys_values(norm(keys))
        rows, columns = (
            self.window.spans(*sizes)
            for sizes in zip(queries.shape[1:3], keys.shape[1:3], strict=True)
        )
        return attend_in_windows(
            attn, attn.project_queries(norm(queries)), keys_values, rows=rows, columns=columns
        )


def attend_in_windows(
    attn: Attention,
    queries: Tensor,
    keys_values: Tensor,
    *,
    rows: Sequence[tuple[Span, Span]],
    columns: Sequence[tuple[Span, Span]],
    penalty: Tensor | None = None,
) -> Tensor:
    """Attend window by window, those of equal shape together.

    Args:
        attn: attends.
        queries: projected, ``[N, H, W, C]``.
        keys_values: projected, ``[N, h, w, 2C]``.
        rows: rows of the queries and of the keys of each window; those of the queries make up H.
        columns: the same of columns.
        penalty: added to the logits of keys, ``[h, w]``.

    Returns:
        what the queries gathered, ``[N, H, W, C]``.
    """
    done: dict[tuple[int, int], Tensor] = {}
    for places in _alike(rows, columns):
        windows = [(*rows[i], *columns[j]) for i, j in places]
        top, key_top, left, key_left = windows[0]
        shape = (top.stop - top.start, left.stop - left.start)
        tokens = (key_top.stop - key_top.start) * (key_left.stop - key_left.start)
        size = rows_of_a_piece(
            len(windows),
            device=queries.device,
            numbers=len(queries) * (tokens * 2 + shape[0] * shape[1]) * attn.dim,
        )
        for first in range(0, len(windows), size):
            piece = windows[first : first + size]
            q = _gather(queries, [(top, left) for top, _, left, _ in piece])
            inner = [(top, left) for _, top, _, left in piece]
            mask = None
            if penalty is not None:
                mask = _gather(penalty[None, ..., None], inner).transpose(1, 2)  # [m, 1, K]
                mask = mask.repeat_interleave(len(queries), dim=0)[:, None]
            gathered = attn.attend(q, _gather(keys_values, inner), mask=mask)
            gathered = gathered.unflatten(1, shape).unflatten(0, (-1, len(queries)))
            done |= zip(places[first : first + size], gathered, strict=True)
    lines = [
        torch.cat([done[row, column] for column in range(len(columns))], dim=2)
        for row in range(len(rows))
    ]
    return torch.cat(lines, dim=1)


def _alike(
    rows: Sequence[tuple[Span, Span]], columns: Sequence[tuple[Span, Span]]
) -> Iterator[list[tuple[int, int]]]:
    """Give the windows, by row and column, that have as many queries and keys along each axis."""
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, j in product(range(len(rows)), range(len(columns))):
        shape = tuple(span.stop - span.start for span in (*rows[i], *columns[j]))
        groups.setdefault(shape, []).append((i, j))
    yield from groups.values()


def _gather(x: Tensor, windows: Sequence[tuple[Span, Span]]) -> Tensor:
    """Gather windows ``[m N, tokens, C]``, of equal shape, of ``[N, H, W, C]``."""
    # Stacked as views, so that each token is copied once.
    slices = [x[:, top.start : top.stop, left.start : left.stop] for top, left in windows]
    return torch.stack(slices).flatten(0, 1).flatten(1, 2)
