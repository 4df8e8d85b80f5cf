"""Import PyTorchVideo's transforms, and adapt readers and clip sampling to its data sets."""

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
    renamed in 0.17; the old name is provided during the import.

    Only the functions that move whole pixels suit uint8 video: `uniform_crop` is used,
    `uniform_temporal_subsample` could be. `short_side_scale` accepts only float32, which takes ten
    times as long; `random_resized_crop` resizes without antialiasing; and all random transforms
    use the global generator, so a sample would depend on its worker.
    """
    name = "torchvision.transforms.functional_tensor"
    is_missing = name not in sys.modules
    if is_missing:
        sys.modules[name] = import_module("torchvision.transforms._functional_tensor")
    try:
        return import_module("pytorchvideo.transforms.functional")
    finally:
        if is_missing:
            del sys.modules[name]


class ReaderPathHandler(VideoPathHandler):
    """Open video files with `open_video`, and leave folders of frames to PyTorchVideo.

    Assign it to an existing data set: ``dataset.video_path_handler = ReaderPathHandler()``.
    Clips are then uint8, contain the same frames as ffmpeg's, and have no audio.
    """

    def video_from_path(
        self,
        filepath: str,
        decode_audio: bool = False,
        decoder: str = "pyav",
        fps: int = 30,
    ) -> Video:
        """Open a video; ``decoder`` is a backend of `open_video`, ``fps`` applies to folders only.

        Raises:
            VideoError: the file is missing, broken, or not a video.
        """
        if Path(filepath).is_dir():
            return super().video_from_path(filepath, decode_audio, decoder, fps)
        return open_video(filepath, backend=decoder)


class ProtocolClipSampler(ClipSampler):
    """Base class of clip samplers that convert the clip starts of a protocol to seconds.

    PyTorchVideo passes a sampler the duration of a video but not its frame rate, so one rate is
    set here for all videos. The data set then reads every frame of a clip's span, from which
    `SubsampleClip` selects the frames of the protocol.

    Args:
        sampling: the sampling protocol.
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
        """Return the next clip of a video; the last clip time and the annotation are not used."""
        starts = self._starts(round(video_duration * self._fps))
        index = self._current_clip_index
        is_last = index + 1 == len(starts)
        self._current_clip_index = 0 if is_last else index + 1
        # Start half a frame early, so rounding can neither lose nor add a frame.
        begin = (math.floor(starts[index]) - Fraction(1, 2)) / Fraction(self._fps)
        return ClipInfo(begin, begin + self._clip_duration, index, 0, is_last)

    def reset(self) -> None:
        """Start over with the first clip of the next video."""
        self._current_clip_index = 0

    @abstractmethod
    def _starts(self, total: int) -> Sequence[float]:
        """Return the first frames of the clips of a video of ``total`` frames."""


class RandomProtocolClip(ProtocolClipSampler):
    """One random training clip of each video.

    Args:
        sampling: the sampling protocol.
        fps: frame rate of the videos.
        generator: source of the random numbers; None: torch's global generator.
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
        sampling: the sampling protocol.
        fps: frame rate of the videos.
        num_views: V.
    """

    def __init__(self, sampling: ClipSampling, *, fps: float, num_views: int) -> None:
        super().__init__(sampling, fps=fps)
        self._num_views = num_views

    def _starts(self, total: int) -> Sequence[float]:
        return self._sampling.view_starts(total, fps=self._fps, num_views=self._num_views)


class SubsampleClip:
    """Select the frames of a protocol from a clip with all frames of its span.

    Args:
        sampling: the sampling protocol.
        fps: frame rate of the videos.
    """

    def __init__(self, sampling: ClipSampling, *, fps: float) -> None:
        self._sampling = sampling
        self._fps = fps

    def __call__(self, video: Tensor) -> Tensor:
        """Map [C, T, H, W], T at most the span (less in a short video), to [C, F, H, W]."""
        return video[:, self._sampling.clip(0, video.shape[1], fps=self._fps)]
