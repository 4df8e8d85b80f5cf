"""The reader on decord, for those who want its decoder; the PyAV reader is the default."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import decord
import torch
from decord.bridge import use_torch
from torch import Tensor

from stvit_video.data.decode.packets import frame_rate, open_stream, read_index, video_errors
from stvit_video.data.decode.reader import FrameFunction, VideoError, VideoReader

# Frames that decord holds at their full size at a time.
_BATCH = 32


class DecordReader(VideoReader):
    """Decodes with decord 0.6, which brings the FFmpeg 4.1 of 2019.

    Left to itself, decord is silently wrong in places: its random access is off by one or two
    frames where groups of pictures are open (all of HEVC) or timestamps are made up (AVI), and
    frames that an edit list cuts out come back. It is exact only in reading on from the start.
    So this reader asks the packets, as `PyAVReader` does, and lets decord seek only in closed
    groups of pictures; everything else is read in order.

    What remains:

    - AV1 and frames narrower than 64 pixels are not read, and colors of more than 8 bits are
      converted in another way;
    - intra refresh: after a seek, frames are not yet whole;
    - damaged files: garbage or repeated frames instead of an error. One thread is used, for with
      more the result even differs from run to run.

    As decord would follow a playlist named ``.mp4`` to other files, and decode frames of any
    size, the file is first opened by the same guarded demuxer as for PyAV.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        container, stream = open_stream(path)
        with container, video_errors(path):
            index = self._index = read_index(container, stream)
            self.fps = float(frame_rate(stream, index))
        decord.logging.set_level(decord.logging.QUIET)
        with self._decord_errors():
            self._video = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1)
        self.num_frames = len(self._video) if index is None else len(index.pts)
        self._can_seek = index is not None and not (index.has_open_groups or index.hides_frames)
        self._next = 0

    def close(self) -> None:
        """Free the decoder; closing twice is allowed."""
        self._video = None

    def _times(self) -> Sequence[Fraction]:
        if self._index is not None:
            return self._index.times()
        return [i / Fraction(self.fps) for i in range(self.num_frames)]

    def _decode(self, indices: list[int], keep: FrameFunction | None) -> Tensor:
        with self._decord_errors(), use_torch():
            if self._can_seek and keep is None:
                return self._video.get_batch(indices)
            frames = self._frames(indices)
            # Cloned, as a view would keep the whole frame in memory.
            kept = frames if keep is None else (keep(frame).clone() for frame in frames)
            return torch.stack(list(kept))

    def _frames(self, indices: list[int]) -> Iterator[Tensor]:
        if not self._can_seek:
            yield from map(self._read_on_to, indices)
            return
        for first in range(0, len(indices), _BATCH):
            yield from self._video.get_batch(indices[first : first + _BATCH])

    def _read_on_to(self, index: int) -> Tensor:
        if index < self._next:
            self._video.seek(0)
            self._next = 0
        # Not with skip_frames(): it seeks, and is wrong in the same way.
        for _ in range(index + 1 - self._next):
            frame = self._video.next()
        self._next = index + 1
        return frame

    @contextmanager
    def _decord_errors(self) -> Iterator[None]:
        try:
            yield
        except (decord.DECORDError, RuntimeError, AssertionError, StopIteration) as error:
            # What decord says comes first; a stack of addresses follows.
            reason = (str(error).strip() or "decord found no more frames").splitlines()[0]
            raise VideoError(self.path, reason) from error
