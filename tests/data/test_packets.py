"""Indexing frames by their packets, and display matrices."""

from fractions import Fraction

import numpy as np
import pytest

from stvit_video.data.decode.frames import apply_display_matrix
from stvit_video.data.decode.packets import FrameIndex, PacketInfo, is_indexable


def packets(*pts, keys=(0,), hidden=(), size=99):
    return [
        PacketInfo(pts=each, size=size, is_key=each in keys, is_hidden=each in hidden)
        for each in pts
    ]


def test_frames_are_indexed_in_presentation_order():
    index = FrameIndex(packets(0, 20, 10, 30, 50, 40, keys=(0, 30)), time_base=Fraction(1, 100))
    assert index.pts == [0, 10, 20, 30, 40, 50]
    assert [index.key_frame_before(pts) for pts in (0, 20, 30, 50)] == [0, 0, 30, 30]
    assert index.decode_position(10) == 2
    assert index.rate == 10
    assert index.times()[3] == Fraction(3, 10)
    assert not index.has_open_gops


def test_open_groups_of_pictures_are_decoded_from_an_earlier_key_frame():
    index = FrameIndex(packets(0, 10, 40, 20, 30, 50, keys=(0, 40)), time_base=Fraction(1, 100))
    assert index.key_frame_before(30) == 0
    assert index.has_open_gops


def test_hidden_frames_are_decoded_but_not_counted():
    stream = packets(-20, -10, 0, 10, keys=(-20,), hidden=(-20, -10))
    index = FrameIndex(stream, time_base=Fraction(1, 100))
    assert index.pts == [0, 10]
    assert index.key_frame_before(0) == -20
    assert index.has_hidden_frames
    assert not index.is_shown(-20)


GOOD = packets(0, 20, 10, 30, keys=(0,))


@pytest.mark.parametrize(
    ("stream", "changes"),
    [
        (GOOD, {"codec": "vp8"}),
        (GOOD, {"container": "avi"}),
        (GOOD, {"codec": "mpeg4"}),  # packed B-frames
        (packets(0, 10, 20, size=7), {"codec": "mpeg4", "reorders": False}),  # "not coded"
        (packets(0, 10, None), {}),
        (packets(0, 10, 10), {}),
        (packets(0, 10, size=0), {}),
        (packets(10, 0, 20, keys=(10,)), {}),  # a frame before the first key frame
        (packets(0, 10, keys=(10,)), {}),
        ([*GOOD, PacketInfo(pts=40, size=9, is_damaged=True)], {}),
        ([], {}),
    ],
)
def test_ambiguous_packets_are_not_indexable(stream, changes):
    options = {"codec": "h264", "container": "mov", "reorders": True}
    assert is_indexable(GOOD, **options)
    assert not is_indexable(stream, **{**options, **changes})


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((ONE, 0, 0, 0, ONE), lambda p: p),
        ((0, ONE, 0, -ONE, 0), lambda p: np.rot90(p, -1)),  # y becomes -x: clockwise
        ((-ONE, 0, 0, 0, -ONE), lambda p: np.rot90(p, 2)),
        ((0, -ONE, 0, ONE, 0), lambda p: np.rot90(p, 1)),
        ((-ONE, 0, 0, 0, ONE), lambda p: p[:, ::-1]),  # mirrored
        ((0, ONE, 0, ONE, 0), lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_display_matrices(matrix, expected):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    full = np.array([*matrix, 0, 0, 0, 1 << 30], np.int32)
    np.testing.assert_array_equal(apply_display_matrix(pixels, full), expected(pixels))


def test_an_oblique_rotation_is_rejected():
    matrix = np.array([ONE, ONE, 0, -ONE, ONE, 0, 0, 0, 1 << 30], np.int32)
    with pytest.raises(ValueError, match="90 degrees"):
        apply_display_matrix(np.zeros((2, 2, 3), np.uint8), matrix)
