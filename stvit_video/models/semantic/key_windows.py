"""Windows of keys for windows of queries, where the two stand on different grids.

In the generation semantic tokens query image tokens, and in the recovery image tokens query
semantic tokens. Both cut the grid of queries into windows and give each a window of keys around it
(paper, section 3.2: w_k).

Letters: N frames, H W grid of queries, h w grid of keys, C channels; I J windows along rows and
columns, a b tokens of a window, Q queries and K keys of a window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stvit_video.models.layers.attention import Attention

Grid = tuple[int, int]  # rows and columns


def grid_of(x: Tensor) -> Grid:
    """Give the rows and columns of ``[N, H, W, C]``."""
    # While fvcore traces a model its sizes are tensors.
    return int(x.shape[1]), int(x.shape[2])


class Span(NamedTuple):
    """Tokens along one axis: the first, and the one after the last."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class Windows(NamedTuple):
    """How an axis of image tokens is cut into windows, and each window into semantic tokens.

    The semantic tokens of a window stand for the regions of adaptive pooling, which may overlap:
    7 tokens are cut into [0, 3), [2, 5) and [4, 7). Where the last window is not whole, regions
    that hold no token are left out, so every semantic token stands for at least one image token.

    Attributes:
        window: side of a window in image tokens (w of the paper); None makes the whole axis one
            window.
        tokens: semantic tokens of a window along the axis (w_s of the paper).
    """

    window: int | None
    tokens: int

    def side(self, size: int) -> int:
        """Give the side of a window on an axis of ``size`` tokens."""
        return size if self.window is None else self.window

    def regions_of_a_window(self, size: int) -> list[Span]:
        """Give the image tokens of each semantic token of a whole window."""
        side, tokens = self.side(size), self.tokens
        return [Span(side * k // tokens, -(side * (k + 1) // -tokens)) for k in range(tokens)]

    def regions(self, size: int) -> list[Span]:
        """Give the image tokens of each semantic token of an axis."""
        return [
            Span(origin + start, min(origin + stop, size))
            for origin in range(0, size, self.side(size))
            for start, stop in self.regions_of_a_window(size)
            if origin + start < size
        ]


def positions(spans: Sequence[Span], *, length: int, device: torch.device) -> Tensor:
    """Number the tokens of each span, ``length`` from its start on: int64 ``[spans, length]``."""
    starts = [torch.arange(a, a + length, device=device) for a, _ in spans]
    return torch.stack(starts)


def window_tokens(rows: Tensor, columns: Tensor, *, width: int) -> Tensor:
    """Number the tokens of windows in a grid of ``width`` columns.

    Args:
        rows: of each window, ``[I, a]``.
        columns: of each window, ``[J, b]``.
        width: columns of the grid.

    Returns:
        int64 ``[I, J, a, b]``.
    """
    return rows[:, None, :, None] * width + columns[None, :, None, :]


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Gather tokens of each frame into windows, in one copy.

    Their gradients are added up where windows overlap, on a CUDA device in a fixed order only
    with ``torch.use_deterministic_algorithms``. (Windows cut by ``Tensor.unfold`` or by slices
    need 1.7 to 3.3 times as long, with the backward pass.)

    Args:
        x: ``[N, tokens, C]``.
        index: of any shape.

    Returns:
        ``[N, *index.shape, C]``.
    """
    return x.index_select(1, index.flatten()).unflatten(1, index.shape)


Border = Literal["inside", "clip"]


class Window(NamedTuple):
    """One window along one axis: its queries, and its keys on each grid that has some."""

    queries: Span
    keys: tuple[Span, ...]


class Keys(NamedTuple):
    """Tokens of a grid, projected, for windows to choose from.

    Attributes:
        tokens: keys and values, ``[N, h, w, 2C]``.
        penalty: added to their logits, ``[h, w]``; None for none.
    """

    tokens: Tensor
    penalty: Tensor | None = None


@dataclass(frozen=True)
class KeyWindows:
    """Windows of queries, and a window of keys centered on each, along rows and columns alike.

    Attributes:
        side: of a window of keys; None: each query sees the whole grid.
        queries: side of a window of queries.
        keys: tokens of the keys' grid over the same stretch.
        border: what happens to a window of keys that would leave its grid: ``inside`` moves it
            inwards, so that all have as many keys, ``clip`` cuts it off. Neither holds padding,
            so none needs a mask.
    """

    side: int | None = None
    queries: int = 1
    keys: int = 1
    border: Border = "inside"

    def along(self, queries: int, keys: int) -> list[Window]:
        """Give the windows along an axis.

        Args:
            queries: length of the queries' axis.
            keys: length of the keys' axis.
        """
        if self.side is None or (self.border == "inside" and self.side >= keys):
            return [Window(Span(0, queries), (Span(0, keys),))]
        return [
            Window(Span(start, min(start + self.queries, queries)), (self._span(index, keys),))
            for index, start in enumerate(range(0, queries, self.queries))
        ]

    def _span(self, index: int, size: int) -> Span:
        assert self.side is not None
        start = index * self.keys - (self.side - self.keys) // 2
        if self.border == "inside":
            start = min(max(start, 0), size - self.side)
        return Span(max(start, 0), min(start + self.side, size))

    def along_with_queries(self, queries: int, keys: int) -> list[Window]:
        """Do the same for windows that see queries, too, before their other keys.

        A window sees all queries where its keys cover the axis; else those of as many windows as
        its keys could hold, centered on itself (of an even number one more after it) and moved
        inwards at the border.
        """
        windows = self.along(queries, keys)
        if self.side is None or len(windows) == 1:
            return [Window(own, (Span(0, queries), *others)) for own, others in windows]
        covered = max(1, self.side // self.keys)
        length = min(covered * self.queries, queries)
        result = []
        for index, (own, others) in enumerate(windows):
            first = (index - (covered - 1) // 2) * self.queries
            first = min(max(first, 0), queries - length)
            result.append(Window(own, (Span(first, first + length), *others)))
        return result

    def project(
        self, tokens: Tensor, project: Callable[[Tensor], Tensor], *, queries: Grid
    ) -> Keys:
        """Project the tokens ``[N, h, w, C]`` that windows choose from, each once.

        Args:
            tokens: of the grid of keys.
            project: maps them to keys and values, ``[..., 2C]``.
            queries: size of the grid of queries, by which others than these windows add padding.
        """
        return Keys(project(tokens))


def attend_in_windows(
    attn: Attention,
    queries: Tensor,
    keys: Sequence[Keys],
    *,
    rows: Sequence[Window],
    columns: Sequence[Window],
) -> Tensor:
    """Let the queries of each window attend to its keys.

    Windows with as many queries and keys attend at once; at a border that clips there are some
    with fewer.

    Args:
        attn: attends.
        queries: projected, ``[N, H, W, C]``.
        keys: of each grid.
        rows: windows along rows; their queries make up H.
        columns: the same along columns.

    Returns:
        what the queries gathered, ``[N, H, W, C]``.
    """
    lines = [grid.tokens.flatten(1, 2) for grid in keys]
    tokens = lines[0] if len(lines) == 1 else torch.cat(lines, dim=1)
    penalties = [grid.penalty.flatten() for grid in keys if grid.penalty is not None]
    penalty = torch.cat(penalties).to(tokens.dtype) if penalties else None
    sizes = [grid_of(grid.tokens) for grid in keys]
    bands = []
    for row_group in _groups(rows):
        band = []
        for column_group in _groups(columns):
            index = _index(row_group, column_group, sizes, device=queries.device)
            band.append(
                _attend_group(attn, queries, tokens, index, penalty, row_group, column_group)
            )
        bands.append(torch.cat(band, dim=2) if len(band) > 1 else band[0])
    return attn.proj(torch.cat(bands, dim=1) if len(bands) > 1 else bands[0])


def _attend_group(
    attn: Attention,
    queries: Tensor,
    tokens: Tensor,
    index: Tensor | None,
    penalty: Tensor | None,
    rows: Sequence[Window],
    columns: Sequence[Window],
) -> Tensor:
    """Let windows of equal sizes attend.

    Args:
        attn: attends.
        queries: projected, ``[N, H, W, C]``.
        tokens: projected, of all grids, ``[N, tokens, 2C]``.
        index: the keys of each window, ``[I J, K]``; None where they are all tokens.
        penalty: added to the logits of tokens, ``[tokens]``.
        rows: I windows.
        columns: J windows.

    Returns:
        what they gathered, ``[N, rows, columns, C]``; ``attn.proj`` is still to come.
    """
    (top, bottom), (left, right) = _extent(rows), _extent(columns)
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
    gathered = attn.attend(q.flatten(0, 2).flatten(1, 2), tokens, mask=mask)
    return gathered.view(q.shape).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _index(
    rows: Sequence[Window],
    columns: Sequence[Window],
    sizes: Sequence[Grid],
    *,
    device: torch.device,
) -> Tensor | None:
    """Number the keys of each window, ``[I J, K]``; None where one window has all tokens."""
    everything = tuple(Span(0, height) for height, _ in sizes), tuple(Span(0, w) for _, w in sizes)
    if len(rows) == len(columns) == 1 and (rows[0].keys, columns[0].keys) == everything:
        return None
    pieces, first = [], 0
    for grid, (height, width) in enumerate(sizes):
        places = (
            positions(
                [window.keys[grid] for window in axis],
                length=axis[0].keys[grid].length,
                device=device,
            )
            for axis in (rows, columns)
        )
        pieces.append(window_tokens(*places, width=width).flatten(2).flatten(0, 1) + first)
        first += height * width
    return torch.cat(pieces, dim=1)


def _extent(windows: Sequence[Window]) -> Span:
    return Span(windows[0].queries.start, windows[-1].queries.stop)


def _groups(windows: Sequence[Window]) -> list[list[Window]]:
    """Join neighbors that see the same keys, and group neighbors of equal sizes."""
    joined: list[Window] = []
    for window in windows:
        if joined and joined[-1].keys == window.keys:
            window = Window(Span(joined.pop().queries.start, window.queries.stop), window.keys)
        joined.append(window)
    groups: list[list[Window]] = []
    for window in joined:
        if groups and _lengths(groups[-1][-1]) == _lengths(window):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups


def _lengths(window: Window) -> list[int]:
    return [span.length for span in (window.queries, *window.keys)]


class CrossWindowAttention(Attention):
    """Self-attention of semantic tokens in large windows, moved inwards at the border.

    The cross-window connection of section 3.2: each window of tokens attends to those of a larger
    window around it, here in each frame.

    Args:
        dim: channels C.
        num_heads: heads.
        key_windows: of which queries and keys are the same tokens.
    """

    def __init__(self, dim: int, *, num_heads: int, key_windows: KeyWindows) -> None:
        super().__init__(dim, num_heads=num_heads)
        self.key_windows = key_windows

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside the frames of ``[B, T, h, w, C]``; the shape stays."""
        frames = x.flatten(0, 1)
        grid = grid_of(frames)
        rows, columns = (self.key_windows.along(size, size) for size in grid)
        gathered = attend_in_windows(
            self,
            self.project_queries(frames),
            [self.key_windows.project(frames, self.project_keys_values, queries=grid)],
            rows=rows,
            columns=columns,
        )
        return gathered.unflatten(0, x.shape[:2])
