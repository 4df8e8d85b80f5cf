"""PyTorchVideo's transforms, and our readers and sampling for its own data sets."""

import math
import sys
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler
from pytorchvideo.data.video import Video, VideoPathHandler
from torch import Tensor

from stvit_video.data.decode import open_video
from stvit_video.data.sampling import ClipSampling


@cache
def pytorchvideo_functional() -> ModuleType:
    """Import ``pytorchvideo.transforms.functional``.

    PyTorchVideo 0.1.5 imports ``torchvision.transforms.functional_tensor``, which torchvision
    renamed in 0.17; the old name is lent to it for the time of its import.

    Of its functions only those that move whole pixels are right for uint8 video: `uniform_crop`
    is used, `uniform_temporal_subsample` could be. `short_side_scale` takes float32 alone, which
    costs ten times the time; `random_resized_crop` resizes without antialiasing; and all random
    ones draw from the global generator, so that a sample would depend on the worker it is made in.
    """
    name = "torchvision.transforms.functional_tensor"
    lent = name not in sys.modules
    if lent:
        sys.modules[name] = import_module("torchvision.transforms._functional_tensor")
    try:
        return import_module("pytorchvideo.transforms.functional")
    finally:
        if lent:
            del sys.modules[name]


class ReaderPathHandler(VideoPathHandler):
    """Opens video files with `open_video`; folders of frames stay PyTorchVideo's business.

    Give it to a data set after that is made: ``dataset.video_path_handler = ReaderPathHandler()``.
    Clips are then uint8, hold ffmpeg's own frames, and have no audio.
    """

    def video_from_path(
        self,
        filepath: str,
        decode_audio: bool = False,
        decoder: str = "pyav",
        fps: int = 30,
    ) -> Video:
        """Open a video; ``decoder`` is a backend of `open_video`, ``fps`` is for folders.

        Raises:
            VideoError: the file is missing, broken, or not a video.
        """
        if Path(filepath).is_dir():
            return super().video_from_path(filepath, decode_audio, decoder, fps)
        return open_video(filepath, backend=decoder)


class ProtocolClipSampler(ClipSampler):
    """Base of the three: turns the starts of a protocol into seconds.

    PyTorchVideo tells a sampler how long a video is, but not its frame rate, so that is given
    here, once for all videos. The data set then reads all frames of a clip's span, of which
    `SubsampleClip` takes those of the protocol.

    Args:
        sampling: the protocol.
        fps: frame rate of the videos.
    """

    def __init__(self, sampling: ClipSampling, *, fps: float) -> None:
        super().__init__(Fraction(math.ceil(sampling.span(fps))) / Fraction(fps))
        self._sampling = sampling
        self._fps = fps
        self._current_clip_index: int = 0

    def __call__(
        self,
        last_clip_time: float | Fraction,
        video_duration: float | Fraction,
        annotation: dict[str, Any],
    ) -> ClipInfo:
        """Place the next clip; what PyTorchVideo passes besides the duration is not needed."""
        starts = self._starts(round(video_duration * self._fps))
        index = self._current_clip_index
        is_last = index + 1 == len(starts)
        self._current_clip_index = 0 if is_last else index + 1
        # From half a frame before the first frame, so that rounding cannot lose or add one.
        begin = (math.floor(starts[index]) - Fraction(1, 2)) / Fraction(self._fps)
        return ClipInfo(begin, begin + self._clip_duration, index, 0, is_last)

    def reset(self) -> None:
        """Begin with the first clip of the next video."""
        self._current_clip_index = 0

    @abstractmethod
    def _starts(self, total: int) -> Sequence[float]:
        """First frames of the clips of a video of ``total`` frames."""


class RandomProtocolClip(ProtocolClipSampler):
    """One training clip a video.

    Args:
        sampling: the protocol.
        fps: frame rate of the videos.
        generator: source of the draws; None: torch's global one.
    """

    def __init__(
        self, sampling: ClipSampling, *, fps: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(sampling, fps=fps)
        self._generator = generator

    def _starts(self, total: int) -> Sequence[float]:
        return [self._sampling.random_start(total, fps=self._fps, generator=self._generator)]


class CenterProtocolClip(ProtocolClipSampler):
    """The validation clip of each video."""

    def _starts(self, total: int) -> Sequence[float]:
        return [self._sampling.center_start(total, fps=self._fps)]


class ProtocolViews(ProtocolClipSampler):
    """The V test clips of each video, one after another.

    Args:
        sampling: the protocol.
        fps: frame rate of the videos.
        num_views: V.
    """

    def __init__(self, sampling: ClipSampling, *, fps: float, num_views: int) -> None:
        super().__init__(sampling, fps=fps)
        self._num_views = num_views

    def _starts(self, total: int) -> Sequence[float]:
        return self._sampling.view_starts(total, fps=self._fps, num_views=self._num_views)


class SubsampleClip:
    """Takes the protocol's frames of a clip that holds all frames of its span.

    Args:
        sampling: the protocol.
        fps: frame rate of the videos.
    """

    def __init__(self, sampling: ClipSampling, *, fps: float) -> None:
        self._sampling = sampling
        self._fps = fps

    def __call__(self, video: Tensor) -> Tensor:
        """[C, T, H, W] with T at most the span (less in a short video) to [C, F, H, W]."""
        return video[:, self._sampling.clip(0, video.shape[1], fps=self._fps)]
