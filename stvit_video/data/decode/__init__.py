"""Decode video files to frames; only this package and ``data/encode.py`` import PyAV and decord."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from stvit_video.data.decode.reader import VideoError, VideoReader

__all__ = ["BACKENDS", "VideoError", "VideoReader", "open_video"]

# Backends that a config can choose.
BACKENDS = ("pyav", "decord")
# Imported on first use, so that a user of one backend need not install the other.
_READERS = {
    "pyav": ("stvit_video.data.decode.pyav_reader", "PyAVReader"),
    "decord": ("stvit_video.data.decode.decord_reader", "DecordReader"),
    "image": ("stvit_video.data.decode.reader", "ImageReader"),
}


def open_video(path: str | Path, *, backend: str = "pyav") -> VideoReader:
    """Open a local video file for reading frames; close the reader, or use it in a ``with``.

    Args:
        path: a file that FFmpeg reads as mp4, mov, mkv, webm or avi.
        backend: "pyav", whose frames are identical to ffmpeg's, "decord", or "image".

    Raises:
        VideoError: the file is missing, broken, or not a video.
    """
    module, name = _READERS[backend]
    reader: Callable[[str | Path], VideoReader] = getattr(import_module(module), name)
    return reader(path)
