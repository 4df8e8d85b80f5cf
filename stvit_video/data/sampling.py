"""Select the frames of clips: index arithmetic of the sampling protocols, without decoding.

Shapes: N frames of the video, F frames of a clip, V clips (test views) of a video. The interval is
the distance between neighboring frames of a clip, in frames of the video, and the span is the
number of frames that a clip covers.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from stvit_video.runtime.registry import Registry

PROTOCOLS: Registry[type["ClipSampling"]] = Registry("sampling protocol (DATA.SAMPLING_PROTOCOL)")


class ClipSampling(ABC):
    """A sampling protocol: where clips start in a video, and which frames they take from there.

    Args:
        num_frames: F, frames of a clip.
        sampling_rate: distance between two of them, in frames of ``target_fps``.
        target_fps: frame rate that ``sampling_rate`` counts in; 0: the video's own frames.
    """

    def __init__(self, *, num_frames: int, sampling_rate: int, target_fps: float = 0.0) -> None:
        self.num_frames = num_frames
        self._sampling_rate = sampling_rate
        self._target_fps = target_fps

    def interval(self, fps: float) -> float:
        """Distance between two frames of a clip, in frames of a video of this rate."""
        return self._sampling_rate * (fps / self._target_fps if self._target_fps else 1.0)

    def random_clip(self, total: int, *, fps: float, generator: torch.Generator | None) -> Tensor:
        """Draw a training clip of a video of ``total`` frames: int64 [F]."""
        return self.clip(self.random_start(total, fps=fps, generator=generator), total, fps=fps)

    def center_clip(self, total: int, *, fps: float) -> Tensor:
        """The validation clip of a video of ``total`` frames: int64 [F]."""
        return self.clip(self.center_start(total, fps=fps), total, fps=fps)

    def views(self, total: int, *, fps: float, num_views: int) -> Tensor:
        """The test clips of a video of ``total`` frames: int64 [V, F]."""
        starts = self.view_starts(total, fps=fps, num_views=num_views)
        return torch.stack([self.clip(start, total, fps=fps) for start in starts])

    @abstractmethod
    def span(self, fps: float) -> float:
        """Frames that a clip covers in a video of this rate."""

    @abstractmethod
    def clip(self, start: float, total: int, *, fps: float) -> Tensor:
        """Indices, int64 [F] in [0, total), of the clip that begins at frame ``start``."""

    @abstractmethod
    def random_start(self, total: int, *, fps: float, generator: torch.Generator | None) -> float:
        """Draw the first frame of a training clip."""

    @abstractmethod
    def center_start(self, total: int, *, fps: float) -> float:
        """Return the first frame of the center clip."""

    @abstractmethod
    def view_starts(self, total: int, *, fps: float, num_views: int) -> Sequence[float]:
        """Return the first frames of the V test clips."""


@PROTOCOLS.register("video_swin")
class VideoSwinSampling(ClipSampling):
    """The protocol of Video Swin's published numbers (``SampleFrames`` of mmaction).

    Clips begin at whole frames; the V test clips start in the middle of V equal parts of the
    possible starts; a video shorter than the span is repeated from its first frame. mmaction
    validates on a random clip; here it is the center clip.
    """

    def span(self, fps: float) -> int:
        """F x interval, in whole frames."""
        return math.ceil(round(self.num_frames * self.interval(fps), 6))

    def clip(self, start: float, total: int, *, fps: float) -> Tensor:
        """Every interval-th frame from ``start`` on, wrapping around after the last frame."""
        steps = torch.arange(self.num_frames, dtype=torch.float64) * self.interval(fps)
        return (int(start) + steps.floor().long()) % total

    def random_start(self, total: int, *, fps: float, generator: torch.Generator | None) -> int:
        """Uniform over all starts whose clip lies inside the video."""
        return int(torch.randint(self._num_starts(total, fps), (), generator=generator))

    def center_start(self, total: int, *, fps: float) -> int:
        """The start of the one-view test."""
        return self.view_starts(total, fps=fps, num_views=1)[0]

    def view_starts(self, total: int, *, fps: float, num_views: int) -> list[int]:
        """floor(i avg + avg / 2) with avg = (N - span + 1) / V; all 0 in a short video."""
        if total < self.span(fps):
            return [0] * num_views
        average = self._num_starts(total, fps) / num_views
        return [int(i * average + average / 2) for i in range(num_views)]

    def _num_starts(self, total: int, fps: float) -> int:
        return max(total - self.span(fps), 0) + 1


@PROTOCOLS.register("pyslowfast")
class PySlowFastSampling(ClipSampling):
    """The protocol of PySlowFast (``temporal_sampling``, without offset sampling).

    A clip is F points spread evenly from its first to its last frame, both included, which makes
    them a little more than the interval apart; the first test clip begins at the first frame,
    and points after the last frame repeat it. PySlowFast validates on a random clip; here it is
    the center clip.
    """

    def span(self, fps: float) -> float:
        """F x interval; not rounded."""
        return self.num_frames * self.interval(fps)

    def clip(self, start: float, total: int, *, fps: float) -> Tensor:
        """F evenly spread points, clamped to the video and rounded down."""
        points = torch.linspace(start, start + self.span(fps) - 1, self.num_frames)
        return points.clamp(0, total - 1).long()

    def random_start(self, total: int, *, fps: float, generator: torch.Generator | None) -> float:
        """Uniform over the real numbers in [0, N - span]."""
        fraction = torch.rand((), dtype=torch.float64, generator=generator)
        return float(fraction) * self._slack(total, fps)

    def center_start(self, total: int, *, fps: float) -> float:
        """Half of the slack, the frames that the clip leaves free."""
        return self._slack(total, fps) / 2

    def view_starts(self, total: int, *, fps: float, num_views: int) -> list[float]:
        """i (N - span) / V: the last frames belong to no test clip."""
        return [self._slack(total, fps) * i / num_views for i in range(num_views)]

    def _slack(self, total: int, fps: float) -> float:
        return max(total - self.span(fps), 0.0)
