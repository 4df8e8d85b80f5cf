"""Read videos with PyAV; the frames are identical to those of the ffmpeg program."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from stvit_video.data.decode.frames import (
    FrameSource,
    RgbConverter,
    SeekError,
    SequentialFrames,
    open_frames,
)
from stvit_video.data.decode.packets import video_errors
from stvit_video.data.decode.reader import FrameTransform, VideoError, VideoReader


class PyAVReader(VideoReader):
    """Decodes with the FFmpeg inside PyAV; frame ``i`` is the ``i``-th of ``ffmpeg -i FILE``.

    Opening a file reads all packets without decoding them. This gives the exact number of frames,
    and edit lists, start times and open groups of pictures are honored. Where the packets are
    ambiguous (AVI with B-frames, VP8, damage), opening decodes the file once to count its frames,
    and every read decodes it in order.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._to_rgb = RgbConverter()
        with video_errors(path):
            self._source: FrameSource | None = open_frames(path)
        self.num_frames = self._source.num_frames
        if not self.num_frames:
            self.close()
            raise VideoError(path, "it has no frame that can be decoded")
        self.fps = float(self._source.rate)

    def close(self) -> None:
        """Free the decoder; closing twice is allowed."""
        if self._source is not None:
            self._source.close()
        # Dropping the last references frees the decoder's memory even if the reader lives on, as
        # it does in the traceback of an error.
        self._source, self._to_rgb = None, RgbConverter()

    def _times(self) -> Sequence[Fraction]:
        return self._open_source().times()

    def _open_source(self) -> FrameSource:
        assert self._source is not None, "the reader is closed"
        return self._source

    def _decode(self, indices: list[int], transform: FrameTransform | None) -> Tensor:
        output = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        with video_errors(self.path):
            for position, frame in enumerate(self._frames(indices)):
                pixels = torch.from_numpy(self._rgb(frame))
                if transform is not None:
                    pixels = transform(pixels)
                if position == 0:
                    output = torch.empty((len(indices), *pixels.shape), dtype=torch.uint8)
                output[position] = pixels
        return output

    def _frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        num_decoded = 0
        try:
            for frame in self._open_source().frames(indices):
                yield frame
                num_decoded += 1
        except SeekError as error:
            yield from self._read_sequentially(str(error)).frames(indices[num_decoded:])

    def _read_sequentially(self, cause: str) -> FrameSource:
        """Fall back to decoding in order, for a file where seeking contradicts the packets."""
        self._open_source().close()
        self._source = SequentialFrames(self.path)
        found, expected = self._source.num_frames, self.num_frames
        if found != expected:
            reason = f"{found} of its {expected} frames can be decoded ({cause})"
            raise VideoError(self.path, reason)
        return self._source

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        try:
            return self._to_rgb(frame)
        except ValueError as error:
            raise VideoError(self.path, str(error)) from error
