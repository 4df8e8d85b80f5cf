"""Decode single frames of a video to upright RGB arrays, by seeking or by reading in order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stvit_video.data.decode.packets import FrameIndex, frame_rate, open_stream, read_index
from stvit_video.data.decode.reader import VideoError

# Decoders that apply a change of ``skip_frame`` to the very next packet. (libdav1d buffers some.)
_SKIP_FRAME_DECODERS = {"h264", "hevc", "mpeg4"}
# Entries of a display matrix below this share of the largest one count as zero: about one degree,
# as in ffmpeg.
_MATRIX_TOLERANCE = 0.02


class SeekError(Exception):
    """After a seek, the decoder did not return a frame that the index lists."""


class FrameSource(ABC):
    """Frames of one open file by their position in presentation order.

    Attributes:
        num_frames: number of frames.
        rate: average frames per second.
    """

    num_frames: int
    rate: Fraction

    @abstractmethod
    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices."""

    @abstractmethod
    def times(self) -> Sequence[Fraction]:
        """Return the seconds from the first frame to each frame."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def open_frames(path: str | Path) -> FrameSource:
    """Open a file for seeking if its packets can be indexed, else for reading in order."""
    container, stream = open_stream(path)
    try:
        index = read_index(container, stream)
        if index is not None:
            return IndexedFrames(container, stream, index=index)
    except BaseException:
        container.close()
        raise
    container.close()
    return SequentialFrames(path)


class IndexedFrames(FrameSource):
    """Seeks to the key frame before a requested frame, and decodes from there.

    It seeks only if that saves decoding: as long as requested frames lie ahead in the same group
    of pictures, decoding simply continues, also across calls.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, *, index: FrameIndex
    ) -> None:
        self.num_frames = len(index.pts)
        self.rate = frame_rate(stream, index)
        self._container = container
        self._stream = stream
        self._index = index
        self._can_skip = stream.codec_context.name in _SKIP_FRAME_DECODERS
        self._requested: frozenset[int] = frozenset()
        # State since the last seek: the decoder's output, the decode position of the last packet
        # sent to it, the timestamp of the last frame it returned, the timestamps of packets that
        # were skipped because they were not requested, and the key frame it has yet to return.
        self._decoded: Iterator[VideoFrame] | None = None
        self._last_position = -1
        self._last_pts: int | None = None
        self._skipped: set[int] = set()
        self._pending_key: int | None = None

    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices.

        Raises:
            SeekError: the decoder does not return a frame that the index lists.
        """
        self._requested = frozenset(self._index.pts[i] for i in indices)
        for i in indices:
            yield self._frame_at(self._index.pts[i])

    def times(self) -> Sequence[Fraction]:
        """Return the seconds from the first frame to each frame."""
        return self._index.times()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _frame_at(self, pts: int) -> VideoFrame:
        key = self._index.key_frame_before(pts)
        if self._decoded is None or self._must_seek(pts, key):
            self._seek(key)
        assert self._decoded is not None
        for frame in self._decoded:
            self._last_pts = frame.pts
            if frame.pts == self._pending_key and frame.pict_type == PictureType.I:
                self._pending_key = None
            if frame.pts == pts and not frame.is_corrupt and self._pending_key is None:
                return frame
            if frame.pts is None or frame.pts >= pts:
                break
        raise SeekError(f"there is no intact frame at timestamp {pts}")

    def _must_seek(self, pts: int, key: int) -> bool:
        is_behind = self._last_pts is not None and pts <= self._last_pts
        is_in_later_gop = self._index.decode_position(key) > self._last_position
        return is_behind or is_in_later_gop or pts in self._skipped

    def _seek(self, key: int) -> None:
        try:
            self._container.seek(key, stream=self._stream)
        except av.error.FFmpegError as error:
            raise SeekError(f"seeking to timestamp {key} failed") from error
        self._last_position, self._last_pts = -1, None
        self._skipped.clear()
        # With intra refresh, "key" frames are not self-contained: decoding from one gives a wrong
        # picture. A true key frame is an I picture. A hidden one is never returned, so its type
        # cannot be checked.
        self._pending_key = key if self._index.is_shown(key) else None
        self._decoded = self._decode_from(self._index.decode_position(key))

    def _decode_from(self, position: int) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            if packet.pts is not None:
                self._last_position = self._position_of(packet.pts, seek_position=position)
            # No other frame refers to a non-reference frame, so it is decoded only on request.
            if self._can_skip and packet.pts is not None and packet.pts not in self._requested:
                context.skip_frame = "NONREF"
                self._skipped.add(packet.pts)
            else:
                context.skip_frame = "DEFAULT"
            yield from packet.decode()

    def _position_of(self, pts: int, *, seek_position: int) -> int:
        if not self._index.has_packet(pts):
            raise SeekError(f"seeking found an unknown packet at timestamp {pts}")
        position = self._index.decode_position(pts)
        if self._last_position < 0 and position > seek_position:
            raise SeekError(f"seeking to packet {seek_position} led to packet {position}")
        return position


class SequentialFrames(FrameSource):
    """Decodes from the start and counts frames: slow, but independent of timestamps."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._container, stream = open_stream(path)
        with self._container:
            self.rate = frame_rate(stream, None)
            self.num_frames = sum(1 for _ in self._container.decode(stream))
        self._decoded: Iterator[VideoFrame] | None = None
        self._next_index = self.num_frames

    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices.

        Raises:
            VideoError: a requested frame is damaged.
        """
        for index in indices:
            if index < self._next_index:
                self._restart()
            assert self._decoded is not None
            while self._next_index <= index:
                frame = next(self._decoded)
                self._next_index += 1
            if frame.is_corrupt:
                raise VideoError(self._path, f"its frame {index} is damaged")
            yield frame

    def times(self) -> Sequence[Fraction]:
        """Return the seconds from the first frame to each frame, evenly spaced."""
        return [i / self.rate for i in range(self.num_frames)]

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _restart(self) -> None:
        # Reopened, because in files that need this class even seeking to the start is unreliable.
        self._container.close()
        self._container, stream = open_stream(self._path)
        self._decoded = self._container.decode(stream)
        self._next_index = 0


class RgbConverter:
    """Converts the frames of one video, all of one size and pixel format, to upright RGB.

    It runs ffmpeg's own filter chain for ``-pix_fmt rgb24``. `VideoFrame.to_ndarray` gives the
    same values only for 8-bit video, and takes three times as long because of swscale's threads.
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._frame_type = ""

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert one frame.

        Returns:
            [H, W, 3], writable; the caller may keep views of it.

        Raises:
            ValueError: the size or format of the frame differs from the previous ones, or its
                display matrix does not rotate by a multiple of 90 degrees.
        """
        frame_type = f"{frame.width}x{frame.height} {frame.format.name}"
        if self._graph is None:
            self._graph, self._frame_type = _rgb_graph(frame), frame_type
        if frame_type != self._frame_type:
            raise ValueError(f"its frames change from {self._frame_type} to {frame_type}")
        self._graph.vpush(frame)
        plane = self._graph.vpull().planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        pixels = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        side_data: Any = frame.side_data
        matrix = side_data.get(Type.DISPLAYMATRIX)
        if matrix is None:
            return pixels
        # PyTorch does not support arrays with negative strides.
        return np.ascontiguousarray(apply_display_matrix(pixels, np.frombuffer(matrix, np.int32)))


def _rgb_graph(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    if hasattr(graph, "threads"):  # since PyAV 18; earlier versions use one thread per core
        graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    chain = (graph.add("scale", "threads=1"), graph.add("format", "rgb24"), graph.add("buffersink"))
    graph.link_nodes(source, *chain)
    graph.configure()
    return graph


def apply_display_matrix(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Apply the rotation by multiples of 90 degrees and the flips of a display matrix, as ffmpeg.

    Args:
        pixels: [H, W, C].
        matrix: [9] 16.16 fixed point, row by row; a pixel at (x, y) is shown at
            (a x + c y, b x + d y), with (a, b, _, c, d) its first entries, y downwards.

    Returns:
        A view of ``pixels``, [H, W, C] or [W, H, C].

    Raises:
        ValueError: the matrix does not rotate by a multiple of 90 degrees.
    """
    a, b, _, c, d = (float(entry) for entry in matrix[:5])
    tolerance = _MATRIX_TOLERANCE * max(abs(a), abs(b), abs(c), abs(d))
    if abs(b) <= tolerance and abs(c) <= tolerance and a and d:
        flip_x, flip_y = a < 0, d < 0
    elif abs(a) <= tolerance and abs(d) <= tolerance and b and c:
        pixels = pixels.transpose(1, 0, 2)
        flip_x, flip_y = c < 0, b < 0
    else:
        raise ValueError("its display matrix does not rotate by a multiple of 90 degrees")
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
