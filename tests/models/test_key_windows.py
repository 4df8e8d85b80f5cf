"""Test which keys the queries of a window see, against spans written by hand."""

import pytest

from stvit_video.models.semantic.key_windows import KeyWindows
from stvit_video.models.semantic.pooling import PoolingRegions

SEVEN = PoolingRegions(window=7, tokens=3)


def generation(size, side):
    """Return the image keys and the semantic keys of each window, if both are keys."""
    windows = KeyWindows(side, queries=3, keys=7).spans_with_queries(len(SEVEN.spans(size)), size)
    assert sum(window.queries.length for window in windows) == len(SEVEN.spans(size))
    return [(tuple(image), tuple(semantic)) for _, (semantic, image) in windows]


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        # At 224 pixels (14 tokens) key windows of 10 start at 0 and 4, one of 14 covers all.
        (14, 10, [((0, 10), (0, 3)), ((4, 14), (3, 6))]),
        (14, 14, [((0, 14), (0, 6))]),
        # Four windows of 7: key windows of 10 extend one token to the left, two to the right.
        (28, 10, [((0, 10), (0, 3)), ((6, 16), (3, 6)), ((13, 23), (6, 9)), ((18, 28), (9, 12))]),
        # Key windows of 14 and 21 include the semantic tokens of two and three windows.
        (28, 14, [((0, 14), (0, 6)), ((4, 18), (3, 9)), ((11, 25), (6, 12)), ((14, 28), (6, 12))]),
        (28, 21, [((0, 21), (0, 9)), ((0, 21), (0, 9)), ((7, 28), (3, 12)), ((7, 28), (3, 12))]),
        # A key window smaller than a window covers its center.
        (14, 4, [((2, 6), (0, 3)), ((9, 13), (3, 6))]),
        # Windows of 7, 7 and 1 with seven semantic tokens: the last key window moves inwards.
        (15, 10, [((0, 10), (0, 3)), ((5, 15), (3, 6)), ((5, 15), (4, 7))]),
        # An axis covered by the key window has one window, whatever its size.
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
    count = len(SEVEN.spans(size))
    windows = KeyWindows(side, queries=3, keys=7).spans_with_queries(count, size)
    for index, (own, (semantic, image)) in enumerate(windows):
        assert 0 <= image.start < image.stop <= size
        assert 0 <= semantic.start <= own.start < own.stop <= semantic.stop <= count
        if side >= 7:
            last = size if len(windows) == 1 else min((index + 1) * 7, size)
            assert image.start <= index * 7 < last <= image.stop


@pytest.mark.parametrize(
    ("key_windows", "sizes", "expected"),
    [
        # Generation for detection: key windows of 21 image tokens around windows of 7.
        (
            KeyWindows(21, queries=3, keys=7, border="clip"),
            (10, 22),
            [((0, 3), (0, 14)), ((3, 6), (0, 21)), ((6, 9), (7, 22)), ((9, 10), (14, 22))],
        ),
        # Recovery for detection: 9 semantic tokens around the 3 of a window.
        (
            KeyWindows(9, queries=7, keys=3, border="clip"),
            (16, 7),
            [((0, 7), (0, 6)), ((7, 14), (0, 7)), ((14, 16), (3, 7))],
        ),
        # Key windows larger than the axis are clipped to it.
        (
            KeyWindows(27, queries=7, keys=3, border="clip"),
            (8, 4),
            [((0, 7), (0, 4)), ((7, 8), (0, 4))],
        ),
        (KeyWindows(), (16, 7), [((0, 16), (0, 7))]),
    ],
)
def test_windows_of_keys_are_cut_off(key_windows, sizes, expected):
    windows = key_windows.spans(*sizes)
    assert [(tuple(queries), tuple(keys)) for queries, (keys,) in windows] == expected
