"""Which image tokens a semantic token stands for, and which tokens it attends to, by hand."""

from itertools import product

import pytest

from stvit_video.models.semantic.regions import KeyRanges, Windows, key_ranges

SEVEN = Windows(window=7, tokens=3)


@pytest.mark.parametrize(
    ("windows", "size", "expected"),
    [
        (SEVEN, 7, [(0, 3), (2, 5), (4, 7)]),
        (SEVEN, 14, [(0, 3), (2, 5), (4, 7), (7, 10), (9, 12), (11, 14)]),
        (SEVEN, 10, [(0, 3), (2, 5), (4, 7), (7, 10), (9, 10)]),
        (SEVEN, 8, [(0, 3), (2, 5), (4, 7), (7, 8)]),
        (SEVEN, 5, [(0, 3), (2, 5), (4, 5)]),
        (SEVEN, 1, [(0, 1)]),
        (Windows(window=4, tokens=2), 8, [(0, 2), (2, 4), (4, 6), (6, 8)]),
        (Windows(window=7, tokens=1), 10, [(0, 7), (7, 10)]),
        (Windows(window=None, tokens=3), 14, [(0, 5), (4, 10), (9, 14)]),
        (Windows(window=None, tokens=3), 2, [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_regions(windows, size, expected):
    assert windows.regions(size) == expected


@pytest.mark.parametrize("window", [None, 7, 8])
def test_every_image_token_has_a_region_and_every_region_a_token(window):
    for size, tokens in product(range(1, 30), range(1, 8)):
        regions = Windows(window=window, tokens=tokens).regions(size)
        assert all(0 <= start < stop <= size for start, stop in regions)
        assert {token for region in regions for token in range(*region)} == set(range(size))


def test_key_window_10_of_14_tokens_starts_at_0_and_4():
    assert key_ranges(SEVEN, size=14, key_window=10) == KeyRanges(
        queries=3,
        image_starts=(0, 4),
        image_length=10,
        semantic_starts=(0, 3),
        semantic_length=3,
    )


def test_key_window_14_of_14_tokens_is_the_whole_axis():
    assert key_ranges(SEVEN, size=14, key_window=14) == KeyRanges(
        queries=6, image_starts=(0,), image_length=14, semantic_starts=(0,), semantic_length=6
    )


@pytest.mark.parametrize(
    ("size", "key_window", "expected"),
    [
        # Four windows of 7: keys of 10 reach one token beyond on the left, two on the right.
        (28, 10, KeyRanges(3, (0, 6, 13, 18), 10, (0, 3, 6, 9), 3)),
        # Keys of 14 and 21 take along the semantic tokens of two and three windows.
        (28, 14, KeyRanges(3, (0, 4, 11, 14), 14, (0, 3, 6, 6), 6)),
        (28, 21, KeyRanges(3, (0, 0, 7, 7), 21, (0, 0, 3, 3), 9)),
        # Smaller than a window: keys from its middle.
        (14, 4, KeyRanges(3, (2, 9), 4, (0, 3), 3)),
        # Windows 7, 7 and 1: seven semantic tokens, the last window's keys moved inwards.
        (15, 10, KeyRanges(3, (0, 5, 5), 10, (0, 3, 4), 3)),
        # An axis that the key window covers is one window, whatever its size.
        (10, 10, KeyRanges(5, (0,), 10, (0,), 5)),
        (5, 14, KeyRanges(3, (0,), 5, (0,), 3)),
        (1, 10, KeyRanges(1, (0,), 1, (0,), 1)),
    ],
)
def test_key_ranges(size, key_window, expected):
    assert key_ranges(SEVEN, size=size, key_window=key_window) == expected


@pytest.mark.parametrize("key_window", [3, 7, 10, 14, 21])
@pytest.mark.parametrize("size", [1, 5, 7, 8, 13, 14, 15, 20, 22, 28, 39])
def test_keys_stay_on_the_axis_and_hold_the_window_itself(size, key_window):
    ranges = key_ranges(SEVEN, size=size, key_window=key_window)
    semantic_size = len(SEVEN.regions(size))
    starts = zip(ranges.image_starts, ranges.semantic_starts, strict=True)
    for index, (image, semantic) in enumerate(starts):
        assert 0 <= image <= size - ranges.image_length
        assert 0 <= semantic <= semantic_size - ranges.semantic_length
        own = range(index * ranges.queries, min((index + 1) * ranges.queries, semantic_size))
        assert semantic <= own[0] <= own[-1] < semantic + ranges.semantic_length
        if key_window >= 7:
            own = range(index * 7, min((index + 1) * 7, size))
            assert image <= own[0] <= own[-1] < image + ranges.image_length
