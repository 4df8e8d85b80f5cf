"""Write frames to a video file; only this module and ``decode/`` use PyAV."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: int,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    pixel_format: str = "yuv420p",
) -> None:
    """Encode frames in a single thread, so the same frames always give the same file.

    Args:
        path: the file; its suffix selects the container (.mp4, .mkv, .avi, ...).
        frames: RGB frames [H, W, 3] of the same size; yuv420p needs even sides.
        fps: frame rate.
        codec: FFmpeg name of the encoder.
        options: encoder options, such as ``{"crf": "20", "bf": "2"}``.
        pixel_format: FFmpeg name of the pixel format of the file.
    """
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = None
        for pixels in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
