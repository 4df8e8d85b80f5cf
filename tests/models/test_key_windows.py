"""Which tokens the queries of a window see, by hand."""

import pytest

from stvit_video.models.semantic.key_windows import KeyWindows, Windows

SEVEN = Windows(window=7, tokens=3)


def generation(size, side):
    """Image keys and semantic keys of each window, where semantic tokens are keys too."""
    windows = KeyWindows(side, queries=3, keys=7).along_with_queries(len(SEVEN.regions(size)), size)
    assert sum(window.queries.length for window in windows) == len(SEVEN.regions(size))
    return [(tuple(image), tuple(semantic)) for _, (semantic, image) in windows]


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        # Key windows of 10 of the 14 tokens at 224 pixels begin at 0 and 4; 14 is all of them.
        (14, 10, [((0, 10), (0, 3)), ((4, 14), (3, 6))]),
        (14, 14, [((0, 14), (0, 6))]),
        # Four windows of 7: keys of 10 reach one token beyond on the left, two on the right.
        (28, 10, [((0, 10), (0, 3)), ((6, 16), (3, 6)), ((13, 23), (6, 9)), ((18, 28), (9, 12))]),
        # Keys of 14 and 21 take along the semantic tokens of two and three windows.
        (28, 14, [((0, 14), (0, 6)), ((4, 18), (3, 9)), ((11, 25), (6, 12)), ((14, 28), (6, 12))]),
        (28, 21, [((0, 21), (0, 9)), ((0, 21), (0, 9)), ((7, 28), (3, 12)), ((7, 28), (3, 12))]),
        # Smaller than a window: keys from its middle.
        (14, 4, [((2, 6), (0, 3)), ((9, 13), (3, 6))]),
        # Windows 7, 7 and 1: seven semantic tokens, the last window's keys moved inwards.
        (15, 10, [((0, 10), (0, 3)), ((5, 15), (3, 6)), ((5, 15), (4, 7))]),
        # An axis that the key window covers is one window, whatever its size.
        (10, 10, [((0, 10), (0, 5))]),
        (5, 14, [((0, 5), (0, 3))]),
        (1, 10, [((0, 1), (0, 1))]),
    ],
)
def test_windows_of_keys_are_moved_inwards(size, side, expected):
    assert generation(size, side) == expected


@pytest.mark.parametrize("side", [3, 7, 10, 14, 21])
@pytest.mark.parametrize("size", [1, 5, 7, 8, 13, 14, 15, 20, 22, 28, 39])
def test_keys_stay_on_the_axis_and_hold_the_window_itself(size, side):
    count = len(SEVEN.regions(size))
    windows = KeyWindows(side, queries=3, keys=7).along_with_queries(count, size)
    for index, (own, (semantic, image)) in enumerate(windows):
        assert 0 <= image.start < image.stop <= size
        assert 0 <= semantic.start <= own.start < own.stop <= semantic.stop <= count
        if side >= 7:
            last = size if len(windows) == 1 else min((index + 1) * 7, size)
            assert image.start <= index * 7 < last <= image.stop


@pytest.mark.parametrize(
    ("key_windows", "sizes", "expected"),
    [
        # Detection: image tokens of 21 around windows of 7.
        (
            KeyWindows(21, queries=3, keys=7, border="clip"),
            (10, 22),
            [((0, 3), (0, 14)), ((3, 6), (0, 21)), ((6, 9), (7, 22)), ((9, 10), (14, 22))],
        ),
        # Its recovery: 9 semantic tokens around those of a window.
        (
            KeyWindows(9, queries=7, keys=3, border="clip"),
            (16, 7),
            [((0, 7), (0, 6)), ((7, 14), (0, 7)), ((14, 16), (3, 7))],
        ),
        # Wider than the axis, each window of queries still sees all of it.
        (
            KeyWindows(27, queries=7, keys=3, border="clip"),
            (8, 4),
            [((0, 7), (0, 4)), ((7, 8), (0, 4))],
        ),
        (KeyWindows(), (16, 7), [((0, 16), (0, 7))]),
    ],
)
def test_windows_of_keys_are_cut_off(key_windows, sizes, expected):
    windows = key_windows.along(*sizes)
    assert [(tuple(queries), tuple(keys)) for queries, (keys,) in windows] == expected
