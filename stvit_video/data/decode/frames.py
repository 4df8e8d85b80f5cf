"""Decode frames, by seeking with an index or by reading in order, to upright RGB arrays."""

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

# Share of the matrix' size below which an entry counts as zero: about one degree, as in ffmpeg.
_TOLERANCE = 0.02


def upright(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Apply the turns by 90 degrees and the mirrorings of a display matrix, as ffmpeg does.

    Args:
        pixels: [H, W, C].
        matrix: [9] 16.16 fixed point, row by row; a pixel at (x, y) is shown at
            (a x + c y, b x + d y), with (a, b, _, c, d) its first entries, y downwards.

    Returns:
        A view of ``pixels``, [H, W, C] or [W, H, C].

    Raises:
        ValueError: the matrix turns by something else than a multiple of 90 degrees.
    """
    a, b, _, c, d = (float(entry) for entry in matrix[:5])
    small = _TOLERANCE * max(abs(a), abs(b), abs(c), abs(d))
    if abs(b) <= small and abs(c) <= small and a and d:
        mirror_x, mirror_y = a < 0, d < 0
    elif abs(a) <= small and abs(d) <= small and b and c:
        pixels = pixels.transpose(1, 0, 2)
        mirror_x, mirror_y = c < 0, b < 0
    else:
        raise ValueError("its display matrix turns by something else than a multiple of 90 degrees")
    return pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


class RgbConverter:
    """Converts the frames of one video, all of one size and pixel format.

    It is ffmpeg's own filter chain for ``-pix_fmt rgb24``. `VideoFrame.to_ndarray` gives the same
    numbers for 8-bit video only, and spends three times as long on swscale's threads.
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._frame_type = ""

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert one frame.

        Returns:
            [H, W, 3], writable, of which the caller may keep views.

        Raises:
            ValueError: the frame has another size or format than those before, or its display
                matrix asks for an oblique turn.
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
        # Torch knows no arrays that run backwards.
        return np.ascontiguousarray(upright(pixels, np.frombuffer(matrix, np.int32)))


def _rgb_graph(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    if hasattr(graph, "threads"):  # from PyAV 18 on; else a thread for each core
        graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    chain = (graph.add("scale", "threads=1"), graph.add("format", "rgb24"), graph.add("buffersink"))
    graph.link_nodes(source, *chain)
    graph.configure()
    return graph


# Decoders that obey ``skip_frame`` from the next packet on. (libdav1d takes some packets ahead.)
_SKIPS_AT_ONCE = {"h264", "hevc", "mpeg4"}


class SeekError(Exception):
    """A frame that the index promised did not come out of the decoder after a seek."""


class FrameSource(ABC):
    """Frames of one open file by their position in presentation order.

    Attributes:
        num_frames: how many there are.
        rate: frames a second, on average.
    """

    num_frames: int
    rate: Fraction

    @abstractmethod
    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices."""

    @abstractmethod
    def times(self) -> Sequence[Fraction]:
        """Seconds from the first frame to each frame."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class IndexedFrames(FrameSource):
    """Seeks to the key frame before a wanted frame, and decodes on from there.

    It seeks only if that saves decoding: while wanted frames lie ahead in the same group of
    pictures, decoding simply goes on, over calls too.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, *, index: FrameIndex
    ) -> None:
        self.num_frames = len(index.pts)
        self._container = container
        self._stream = stream
        self._index = index
        self._run: Iterator[VideoFrame] | None = None
        self._wanted: frozenset[int] = frozenset()
        self._can_skip = stream.codec_context.name in _SKIPS_AT_ONCE
        # Of the present run: the last packet sent (in order of decoding), the last frame shown,
        # the frames left out because nobody wanted them when their packet was sent, and the key
        # frame that is still to come out of the decoder.
        self._sent = -1
        self._shown: int | None = None
        self._left_out: set[int] = set()
        self._pending_key: int | None = None
        self.rate = frame_rate(stream, index)

    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices.

        Raises:
            SeekError: a frame does not come out where the index says.
        """
        self._wanted = frozenset(self._index.pts[i] for i in indices)
        for i in indices:
            yield self._frame_at(self._index.pts[i])

    def times(self) -> Sequence[Fraction]:
        """Seconds from the first frame to each frame."""
        return self._index.times()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _frame_at(self, pts: int) -> VideoFrame:
        key = self._index.key_before(pts)
        if self._run is None or self._must_seek(pts, key):
            self._seek(key)
        assert self._run is not None
        for frame in self._run:
            self._shown = frame.pts
            if frame.pts == self._pending_key and frame.pict_type == PictureType.I:
                self._pending_key = None
            if frame.pts == pts and not frame.is_corrupt and self._pending_key is None:
                return frame
            if frame.pts is None or frame.pts >= pts:
                break
        raise SeekError(f"none is whole at timestamp {pts}")

    def _must_seek(self, pts: int, key: int) -> bool:
        is_behind = self._shown is not None and pts <= self._shown
        skips_ahead = self._index.decode_position(key) > self._sent
        return is_behind or skips_ahead or pts in self._left_out

    def _seek(self, key: int) -> None:
        try:
            self._container.seek(key, stream=self._stream)
        except av.error.FFmpegError as error:
            raise SeekError(f"seeking to timestamp {key} failed") from error
        self._sent, self._shown = -1, None
        self._left_out.clear()
        # With intra refresh, "key" frames are not: decoding from one gives a picture, but a wrong
        # one. A true key frame is an I picture; that of a hidden one is never seen.
        self._pending_key = key if self._index.shows(key) else None
        self._run = self._decode(landing=self._index.decode_position(key))

    def _decode(self, *, landing: int) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            if packet.pts is not None:
                self._sent = self._position(packet.pts, landing=landing)
            # No frame refers to a non-reference frame: unless it is wanted, it is not decoded.
            if self._can_skip and packet.pts is not None and packet.pts not in self._wanted:
                context.skip_frame = "NONREF"
                self._left_out.add(packet.pts)
            else:
                context.skip_frame = "DEFAULT"
            yield from packet.decode()

    def _position(self, pts: int, *, landing: int) -> int:
        if not self._index.holds(pts):
            raise SeekError(f"seeking showed an unknown packet at timestamp {pts}")
        position = self._index.decode_position(pts)
        if self._sent < 0 and position > landing:
            raise SeekError(f"seeking to packet {landing} led to packet {position}")
        return position


class CountedFrames(FrameSource):
    """Decodes from the start and counts: slow, but right whatever the timestamps say."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._container, stream = open_stream(path)
        with self._container:
            self.rate = frame_rate(stream, None)
            self.num_frames = sum(1 for _ in self._container.decode(stream))
        self._run: Iterator[VideoFrame] | None = None
        self._next = self.num_frames

    def frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        """Decode the frames of ascending, distinct indices."""
        for index in indices:
            if index < self._next:
                self._restart()
            assert self._run is not None
            while self._next <= index:
                frame = next(self._run)
                self._next += 1
            if frame.is_corrupt:
                raise VideoError(self._path, f"its frame {index} is damaged")
            yield frame

    def times(self) -> Sequence[Fraction]:
        """Seconds from the first frame to each frame, which are evenly spaced."""
        return [i / self.rate for i in range(self.num_frames)]

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _restart(self) -> None:
        # Opened anew: what makes this class necessary makes seeking to the start unsafe too.
        self._container.close()
        self._container, stream = open_stream(self._path)
        self._run = self._container.decode(stream)
        self._next = 0


def open_frames(path: str | Path) -> FrameSource:
    """Open a file, and choose by its packets how its frames are to be found."""
    container, stream = open_stream(path)
    try:
        index = read_index(container, stream)
        if index is not None:
            return IndexedFrames(container, stream, index=index)
    except BaseException:
        container.close()
        raise
    container.close()
    return CountedFrames(path)
