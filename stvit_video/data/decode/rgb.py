"""Decoded frames to upright RGB arrays, as ffmpeg converts them."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from stvit_video.data.decode.orientation import upright


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
