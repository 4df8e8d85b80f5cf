"""Read videos with decord, an alternative to the default PyAV reader."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import decord
import torch
from decord.bridge import use_torch
from torch import Tensor

from stvit_video.data.decode.packets import frame_rate, open_stream, read_index, video_errors
from stvit_video.data.decode.reader import FrameTransform, VideoError, VideoReader

# Full-size frames that decord holds in memory at a time.
_FRAMES_PER_BATCH = 32


class DecordReader(VideoReader):
    """Decodes with decord 0.6, which bundles FFmpeg 4.1 of 2019.

    decord alone is silently wrong in places: its random access is off by one or two frames where
    groups of pictures are open (all of HEVC) or timestamps are synthesized (AVI), and it returns
    frames that an edit list removes. It is exact only when it reads sequentially from the start.
    This reader therefore indexes the packets, as `PyAVReader` does, and lets decord seek only in
    closed groups of pictures; everything else is read in order.

    Remaining limits:

    - AV1 and frames narrower than 64 pixels cannot be read, and colors of more than 8 bits are
      converted differently;
    - intra refresh: frames after a seek are incomplete;
    - damaged files: garbage or repeated frames instead of an error. The reader uses one thread,
      because with more threads the result even differs from run to run.

    decord would follow a playlist named ``.mp4`` to other files and decode frames of any size, so
    the file is first opened by the same guarded demuxer as for PyAV.
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
        self._can_seek = index is not None and not (index.has_open_gops or index.has_hidden_frames)
        self._next_index = 0

    def close(self) -> None:
        """Free the decoder; closing twice is allowed."""
        self._video = None

    def _times(self) -> Sequence[Fraction]:
        if self._index is not None:
            return self._index.times()
        return [i / Fraction(self.fps) for i in range(self.num_frames)]

    def _decode(self, indices: list[int], transform: FrameTransform | None) -> Tensor:
        with self._decord_errors(), use_torch():
            if self._can_seek and transform is None:
                return self._video.get_batch(indices)
            frames = self._frames(indices)
            if transform is not None:
                # Cloned, because a view would keep the whole frame in memory.
                frames = (transform(frame).clone() for frame in frames)
            return torch.stack(list(frames))

    def _frames(self, indices: list[int]) -> Iterator[Tensor]:
        if not self._can_seek:
            yield from map(self._read_sequentially, indices)
            return
        for first in range(0, len(indices), _FRAMES_PER_BATCH):
            yield from self._video.get_batch(indices[first : first + _FRAMES_PER_BATCH])

    def _read_sequentially(self, index: int) -> Tensor:
        if index < self._next_index:
            self._video.seek(0)
            self._next_index = 0
        # Not skip_frames(), which seeks and has the same errors.
        for _ in range(index + 1 - self._next_index):
            frame = self._video.next()
        self._next_index = index + 1
        return frame

    @contextmanager
    def _decord_errors(self) -> Iterator[None]:
        try:
            yield
        except (decord.DECORDError, RuntimeError, AssertionError, StopIteration) as error:
            # The first line is decord's message; a stack trace of addresses follows.
            reason = (str(error).strip() or "decord found no more frames").splitlines()[0]
            raise VideoError(self.path, reason) from error
