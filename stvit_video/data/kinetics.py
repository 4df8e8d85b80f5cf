"""Data sets over a CSV file of labelled videos, in the manner of Kinetics.

Letters: T frames of a clip, H W size, V clips of a video, K crops of a clip.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stvit_video.data.bad_video import BadVideo
from stvit_video.data.decode import VideoReader
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.samplers import Draw, generator_for
from stvit_video.data.sampling import ClipSampling
from stvit_video.data.transforms import SpatialCrops, TrainTransform

# Frames held at their full size at a time while a whole test video is read.
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class VideoDataset(Dataset[dict[str, Any]]):
    """What the data sets have in common.

    Attributes:
        videos: where they are.
        sampling: which frames make a clip.
    """

    videos: LabeledVideos
    _: KW_ONLY
    sampling: ClipSampling

    def __len__(self) -> int:
        return len(self.videos)

    def bad_video(self, index: int, error: str, *, kills: bool = False) -> BadVideo:
        """Describe a video that cannot be read."""
        return self.videos.bad_video(index, error, kills=kills)

    def with_backend(self, backend: str) -> "VideoDataset":
        """The same data set over another decoder."""
        return replace(self, videos=self.videos.with_backend(backend))


@dataclass(frozen=True, eq=False)
class TrainingClips(VideoDataset):
    """A random clip, randomly cropped, of each video.

    Attributes:
        transform: crops and flips it.
        seed: what a sample is depends on it and on the `Draw` alone.
    """

    _: KW_ONLY
    transform: TrainTransform
    seed: int

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """Make a sample: ``video`` is uint8 [3, T, H, W].

        Raises:
            BadVideoError: the video cannot be read.
        """
        generator = generator_for(draw, seed=self.seed)
        with self.videos.open(draw.index) as reader:
            indices = self.sampling.random_clip(
                reader.num_frames, fps=reader.fps, generator=generator
            )
            frames = reader.get_frames(indices)
        video = self.transform(frames, generator=generator)
        return {"video": video, "clip_index": 0, **self.videos.about(draw.index)}


@dataclass(frozen=True, eq=False)
class CentreClips(VideoDataset):
    """The clip in the middle of each video, and the square in the middle of the frame.

    Attributes:
        crops: which square.
    """

    _: KW_ONLY
    crops: SpatialCrops

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make a sample: ``video`` is uint8 [3, T, H, W].

        Raises:
            BadVideoError: the video cannot be read.
        """
        with self.videos.open(index) as reader:
            indices = self.sampling.centre_clip(reader.num_frames, fps=reader.fps)
            frames = self.crops.resize(reader.get_frames(indices))
        return {"video": self.crops.crop(frames)[0], "clip_index": 0, **self.videos.about(index)}


@dataclass(frozen=True, eq=False)
class MultiViewVideos(VideoDataset):
    """All test views of each video, which is opened and decoded once for all of them.

    Attributes:
        crops: which squares.
        num_clips: V.
    """

    _: KW_ONLY
    crops: SpatialCrops
    num_clips: int

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make an item: ``video`` is uint8 [V K, 3, T, H, W]; view index = clip K + crop.

        Raises:
            BadVideoError: the video cannot be read.
        """
        with self.videos.open(index) as reader:
            clips = self.sampling.views(reader.num_frames, fps=reader.fps, num_views=self.num_clips)
            distinct, places = torch.unique(clips, return_inverse=True)
            frames = self._resized(reader, distinct)
        views = [self.crops.crop(frames[:, clip]) for clip in places]
        return {"video": torch.cat(views), **self.videos.about(index)}

    def _resized(self, reader: VideoReader, indices: Tensor) -> Tensor:
        """[3, T, H, W] of all frames that any view needs, each resized once."""
        chunks = [self.crops.resize(reader.get_frames(part)) for part in indices.split(_CHUNK)]
        return torch.cat(chunks, dim=1)
