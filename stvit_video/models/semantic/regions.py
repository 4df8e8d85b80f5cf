"""Arithmetic of windows along one axis: which image tokens a semantic token stands for.

An axis of ``size`` image tokens is cut into windows of ``window`` tokens, and each window into
``tokens`` overlapping regions, as adaptive pooling cuts it: 7 tokens into [0, 3), [2, 5) and
[4, 7). Where the last window is not whole, regions that hold no token are left out, so every
semantic token stands for at least one image token and none needs a mask.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """How windows become semantic tokens, along one axis.

    Attributes:
        window: side of a window in image tokens; None makes the whole axis one window.
        tokens: semantic tokens of a window along the axis.
    """

    window: int | None
    tokens: int

    def side(self, size: int) -> int:
        """Give the side of a window on an axis of ``size`` tokens."""
        return size if self.window is None else self.window

    def regions(self, size: int) -> list[tuple[int, int]]:
        """Give the half-open range of image tokens of each semantic token."""
        side = self.side(size)
        starts = [side * k // self.tokens for k in range(self.tokens)]
        stops = [-(side * (k + 1) // -self.tokens) for k in range(self.tokens)]
        return [
            (origin + start, min(origin + stop, size))
            for origin in range(0, size, side)
            for start, stop in zip(starts, stops, strict=True)
            if origin + start < size
        ]


@dataclass(frozen=True)
class KeyRanges:
    """Which tokens the semantic tokens of each window of one axis attend to.

    Attributes:
        queries: semantic tokens of a window (the last window may hold fewer).
        image_starts: first image token of each window's keys.
        image_length: their number.
        semantic_starts: first semantic token of each window's keys.
        semantic_length: their number.
    """

    queries: int
    image_starts: tuple[int, ...]
    image_length: int
    semantic_starts: tuple[int, ...]
    semantic_length: int

    @property
    def image(self) -> tuple[tuple[int, ...], int]:
        """First image token of each window's keys, and their number."""
        return self.image_starts, self.image_length

    @property
    def semantic(self) -> tuple[tuple[int, ...], int]:
        """First semantic token of each window's keys, and their number."""
        return self.semantic_starts, self.semantic_length


def key_ranges(windows: Windows, *, size: int, key_window: int | None) -> KeyRanges:
    """Place a key window around each window of an axis of ``size`` image tokens.

    A key window is centred on its window and moved inwards where it would leave the axis, so
    that it never holds padding. Beside its image tokens stand the semantic tokens of as many
    whole windows as fit into it: the window itself and those after it. On the 14 tokens of
    stage 3 at 224 pixels, with windows of 7, a key window of 10 starts at 0 and 4 and takes the
    window's own semantic tokens; one of 14 is the whole axis.
    Where it covers the axis (None always does), all semantic tokens have the same keys and form
    one window.
    """
    semantic_size = len(windows.regions(size))
    side = windows.side(size)
    if key_window is None or key_window >= size:
        return KeyRanges(semantic_size, (0,), size, (0,), semantic_size)
    count = -(-size // side)
    covered = max(1, key_window // side)
    semantic_length = min(covered * windows.tokens, semantic_size)
    image_starts, semantic_starts = [], []
    for index in range(count):
        centred = index * side - (key_window - side) // 2
        image_starts.append(min(max(centred, 0), size - key_window))
        first = (index - (covered - 1) // 2) * windows.tokens
        semantic_starts.append(min(max(first, 0), semantic_size - semantic_length))
    return KeyRanges(
        queries=windows.tokens,
        image_starts=tuple(image_starts),
        image_length=key_window,
        semantic_starts=tuple(semantic_starts),
        semantic_length=semantic_length,
    )
