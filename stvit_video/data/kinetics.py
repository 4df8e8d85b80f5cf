"""Data sets over a CSV file of labeled videos, in the manner of Kinetics.

Letters: T frames of a clip, H W size, V clips of a video, K crops of a clip.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.samplers import Draw, generator_for
from stvit_video.data.sampling import ClipSampling
from stvit_video.data.transforms import SpatialCrops, TrainTransform, below


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

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Describe a video that cannot be read."""
        return self.videos.bad_video(index, error, crashes_worker=crashes_worker)

    def with_backend(self, backend: str) -> "VideoDataset":
        """The same data set over another decoder."""
        return replace(self, videos=self.videos.with_backend(backend))


@dataclass(frozen=True, eq=False)
class TrainingClips(VideoDataset):
    """A random clip, randomly cropped and augmented, of each video.

    Attributes:
        transform: crops, flips and augments it.
        seed: what a sample is depends on it and on the `Draw` alone.
        num_samples: samples of each clip, which is decoded once for all of them: repeated
            augmentation (Hoffer et al. 2020). As in PySlowFast, they show the same frames.
    """

    _: KW_ONLY
    transform: TrainTransform
    seed: int
    num_samples: int = 1

    def __getitem__(self, draw: Draw) -> Any:
        """Make the sample of a video or, with several, the list of them.

        A sample has a ``video``, uint8 [3, T, H, W], and a ``mixing_seed`` for what is random
        about the batch that it is the first of.

        Raises:
            BadVideoError: the video cannot be read.
        """
        generator = generator_for(draw, seed=self.seed)
        with self.videos.open(draw.index) as reader:
            indices = self.sampling.random_clip(
                reader.num_frames, fps=reader.fps, generator=generator
            )
            # Several samples are cut differently out of whole frames.
            cut = self.transform.cut(generator=generator) if self.num_samples == 1 else None
            frames = reader.get_frames(indices, transform=cut)
        make = self.transform if cut is None else self.transform.finish
        about = {"clip_index": 0, **self.videos.about(draw.index)}
        samples = [
            {
                "video": make(frames, generator=generator),
                "mixing_seed": below(2**62, generator=generator),
                **about,
            }
            for _ in range(self.num_samples)
        ]
        return samples if self.num_samples > 1 else samples[0]


@dataclass(frozen=True, eq=False)
class CenterClips(VideoDataset):
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
            indices = self.sampling.center_clip(reader.num_frames, fps=reader.fps)
            frames = reader.get_frames(indices, transform=self.crops.resize)
        video = self.crops.crop(frames.permute(3, 0, 1, 2))[0]
        return {"video": video, "clip_index": 0, **self.videos.about(index)}


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
            frames = reader.get_frames(distinct, transform=self.crops.resize)
        return {"video": self._views(frames, places), **self.videos.about(index)}

    def _views(self, frames: Tensor, places: Tensor) -> Tensor:
        """Cut [T, h, w, 3], of which clips take the frames ``places`` [V, F], into all views."""
        squares = self.crops.crop(frames.permute(3, 0, 1, 2))
        size = self.crops.size
        views = frames.new_empty(len(places), len(squares), places.shape[1], size, size, 3)
        for clip, clip_views in zip(places, views, strict=True):
            for square, view in zip(squares, clip_views, strict=True):
                torch.index_select(square.movedim(0, -1), 0, clip, out=view)
        return views.flatten(0, 1).movedim(-1, 1)
