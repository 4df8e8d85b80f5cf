"""The reader whose frames are ffmpeg's own: PyAV, with an index of its own over the packets."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from stvit_video.data.decode.frames import (
    CountedFrames,
    FrameSource,
    RgbConverter,
    SeekError,
    open_frames,
)
from stvit_video.data.decode.packets import video_errors
from stvit_video.data.decode.reader import FrameFunction, VideoError, VideoReader


class PyAVReader(VideoReader):
    """Decodes with the FFmpeg inside PyAV; frame ``i`` is the ``i``-th of ``ffmpeg -i FILE``.

    Opening reads all packets without decoding them: that gives the exact number of frames, and
    edit lists, start times and open groups of pictures are honored. Where the packets do not
    tell (AVI with B-frames, VP8, damage), opening decodes the file once to count its frames, and
    every read runs through it in order.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._convert = RgbConverter()
        with video_errors(path):
            self._source: FrameSource | None = open_frames(path)
        self.num_frames = self._source.num_frames
        if not self.num_frames:
            self.close()
            raise VideoError(path, "it holds no frame that can be decoded")
        self.fps = float(self._source.rate)

    def close(self) -> None:
        """Free the decoder; closing twice is allowed."""
        if self._source is not None:
            self._source.close()
        # The decoder's memory is freed with the last reference, and the reader may live on: the
        # traceback of an error refers to it.
        self._source, self._convert = None, RgbConverter()

    def _times(self) -> Sequence[Fraction]:
        return self._open_source().times()

    def _open_source(self) -> FrameSource:
        assert self._source is not None, "the reader is closed"
        return self._source

    def _decode(self, indices: list[int], keep: FrameFunction | None) -> Tensor:
        frames = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        with video_errors(self.path):
            for slot, frame in enumerate(self._frames(indices)):
                pixels = torch.from_numpy(self._rgb(frame))
                kept = pixels if keep is None else keep(pixels)
                if slot == 0:
                    frames = torch.empty((len(indices), *kept.shape), dtype=torch.uint8)
                frames[slot] = kept
        return frames

    def _frames(self, indices: list[int]) -> Iterator[VideoFrame]:
        done = 0
        try:
            for frame in self._open_source().frames(indices):
                yield frame
                done += 1
        except SeekError as failure:
            yield from self._read_in_order(str(failure)).frames(indices[done:])

    def _read_in_order(self, cause: str) -> FrameSource:
        """Go on without seeking, in a file whose packets promised what seeking did not find."""
        self._open_source().close()
        self._source = CountedFrames(self.path)
        found, promised = self._source.num_frames, self.num_frames
        if found != promised:
            reason = f"{found} of its {promised} frames can be decoded ({cause})"
            raise VideoError(self.path, reason)
        return self._source

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        try:
            return self._convert(frame)
        except ValueError as error:
            raise VideoError(self.path, str(error)) from error
