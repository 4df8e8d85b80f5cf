"""Which keys the queries of a window reach, where queries and keys stand on different grids.

Letters: N frames, H W grid of queries, h w grid of keys, C channels; M windows, Q queries, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
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
    """Attend window by window, a row of windows at once.

    Windows of keys overlap, so copies of them all are the grid several times over. Here the rows
    that a row of windows sees are copied once, column by column; a window is then an unbroken run
    of them, and the windows are overlapping views.

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
    # Windows of several frames are copied after all: a token is in about four of a row.
    size = rows_of_a_piece(len(queries), device=queries.device, numbers=4 * keys_values[0].numel())
    if size < len(queries):
        frames = zip(queries.split(size), keys_values.split(size), strict=True)
        done = [
            attend_in_windows(attn, *piece, rows=rows, columns=columns, penalty=penalty)
            for piece in frames
        ]
        return torch.cat(done)
    runs = _runs(_joined(columns))
    lines = []
    for own, reach in _joined(rows):
        line = queries[:, own.start : own.stop]
        band = keys_values[:, reach.start : reach.stop].transpose(1, 2).contiguous()
        logits = None if penalty is None else penalty[reach.start : reach.stop].t()[None, ..., None]
        lines.append(torch.cat([_attend_run(attn, line, band, run, logits) for run in runs], dim=2))
    return attn.proj(torch.cat(lines, dim=1))


def _attend_run(
    attn: Attention,
    queries: Tensor,
    keys_values: Tensor,
    run: Sequence[tuple[Span, Span]],
    logits: Tensor | None,
) -> Tensor:
    """Let the windows of one run attend.

    Args:
        attn: attends.
        queries: of a row of windows, ``[N, rows, W, C]``.
        keys_values: that it sees, column by column, ``[N, w, rows, 2C]``.
        run: columns of the queries and of the keys of each window.
        logits: added to those of the keys, ``[1, w, rows, 1]``.

    Returns:
        what the queries of the run gathered, not yet projected, ``[N, rows, columns, C]``.
    """
    q = queries[:, :, run[0][0].start : run[-1][0].stop].unflatten(2, (len(run), -1))
    q = q.transpose(1, 2)  # [N, windows, rows, columns, C]
    mask = None
    if logits is not None:
        mask = _overlapping(logits, run).transpose(1, 2)[:, None].repeat(len(q), 1, 1, 1)
    windows = _overlapping(keys_values, run)
    gathered = attn.gather(q.flatten(0, 1).flatten(1, 2), windows, mask=mask)
    return gathered.view(q.shape).transpose(1, 2).flatten(2, 3)


def _overlapping(x: Tensor, run: Sequence[tuple[Span, Span]]) -> Tensor:
    """Give the windows of a run, ``[N windows, tokens, C]``, of ``[N, w, rows, C]``.

    Those of one frame are a view.
    """
    rows, first = x.shape[2], run[0][1]
    step = run[1][1].start - first.start if len(run) > 1 else 1
    x = x[:, first.start : run[-1][1].stop].flatten(1, 2)
    windows = x.unfold(1, (first.stop - first.start) * rows, step * rows)
    return windows.transpose(2, 3).flatten(0, 1)


def _joined(spans: Sequence[tuple[Span, Span]]) -> list[tuple[Span, Span]]:
    """Make one window of neighbours that see the same keys."""
    windows: list[tuple[Span, Span]] = []
    for own, reach in spans:
        if windows and windows[-1][1] == reach:
            windows[-1] = (Span(windows[-1][0].start, own.stop), reach)
        else:
            windows.append((own, reach))
    return windows


def _runs(spans: Sequence[tuple[Span, Span]]) -> list[list[tuple[Span, Span]]]:
    """Split windows into runs of equal lengths and equal steps."""
    runs: list[list[tuple[Span, Span]]] = []
    for window in spans:
        if runs and _goes_on(runs[-1], window):
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs


def _goes_on(run: Sequence[tuple[Span, Span]], window: tuple[Span, Span]) -> bool:
    before, here = ([span.stop - span.start for span in spans] for spans in (run[-1], window))
    steps = {b.start - a.start for (_, a), (_, b) in pairwise([*run, window])}
    return before == here and len(steps) == 1
