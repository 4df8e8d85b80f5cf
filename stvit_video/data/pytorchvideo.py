"""The sampling protocols in seconds, as PyTorchVideo's own data sets take them."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler
from torch import Tensor

from stvit_video.data.sampling import ClipSampling


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


class CentreProtocolClip(ProtocolClipSampler):
    """The validation clip of each video."""

    def _starts(self, total: int) -> Sequence[float]:
        return [self._sampling.centre_start(total, fps=self._fps)]


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
