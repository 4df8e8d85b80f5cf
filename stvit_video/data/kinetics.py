"""Data sets of labeled videos in the style of Kinetics.

Shapes: T frames of a clip, height H, width W, V clips of a video, K crops of a clip.
"""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.labeled_videos import LabeledVideos
from stvit_video.data.samplers import SampleKey, generator_for
from stvit_video.data.sampling import ClipSampling
from stvit_video.data.transforms import SpatialCrops, TrainTransform, randint


@dataclass(frozen=True, eq=False)
class VideoDataset(Dataset[dict[str, Any]]):
    """Base class of the data sets of videos.

    Attributes:
        videos: the videos.
        sampling: selects the frames of a clip.
    """

    videos: LabeledVideos
    _: KW_ONLY
    sampling: ClipSampling

    def __len__(self) -> int:
        return len(self.videos)

    def bad_video(self, index: int, error: str, *, crashes_worker: bool = False) -> BadVideo:
        """Return the `BadVideo` of a video that cannot be read."""
        return self.videos.bad_video(index, error, crashes_worker=crashes_worker)

    def with_backend(self, backend: str) -> "VideoDataset":
        """Return the same data set with another decoder."""
        return replace(self, videos=self.videos.with_backend(backend))


@dataclass(frozen=True, eq=False)
class TrainingClips(VideoDataset):
    """A random clip of each video, randomly cropped and augmented.

    Attributes:
        transform: crops, flips and augments the clip.
        seed: a sample depends only on this seed and its `SampleKey`.
        num_samples: number of samples made of each decoded clip, for repeated augmentation
            (Hoffer et al. 2020). As in PySlowFast, they show the same frames.
    """

    _: KW_ONLY
    transform: TrainTransform
    seed: int
    num_samples: int = 1

    def __getitem__(self, key: SampleKey) -> Any:
        """Return the sample of a video, or a list if ``num_samples`` is more than one.

        A sample has a ``video``, uint8 [3, T, H, W], and a ``mixing_seed``, which seeds the mixing
        of a batch that starts with this sample.

        Raises:
            BadVideoError: the video cannot be read.
        """
        generator = generator_for(key, seed=self.seed)
        with self.videos.open(key.index) as reader:
            indices = self.sampling.random_clip(
                reader.num_frames, fps=reader.fps, generator=generator
            )
            # Several samples need whole frames, as each has its own crop.
            crop = self.transform.make_crop(generator=generator) if self.num_samples == 1 else None
            frames = reader.get_frames(indices, transform=crop)
        transform = self.transform if crop is None else self.transform.finish
        metadata = {"clip_index": 0, **self.videos.metadata(key.index)}
        samples = [
            {
                "video": transform(frames, generator=generator),
                "mixing_seed": randint(2**62, generator=generator),
                **metadata,
            }
            for _ in range(self.num_samples)
        ]
        return samples if self.num_samples > 1 else samples[0]


@dataclass(frozen=True, eq=False)
class CenterClips(VideoDataset):
    """The center crop of the center clip of each video.

    Attributes:
        crops: the spatial crop.
    """

    _: KW_ONLY
    crops: SpatialCrops

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample with ``video``, uint8 [3, T, H, W].

        Raises:
            BadVideoError: the video cannot be read.
        """
        with self.videos.open(index) as reader:
            indices = self.sampling.center_clip(reader.num_frames, fps=reader.fps)
            frames = reader.get_frames(indices, transform=self.crops.resize)
        video = self.crops.crop(frames.permute(3, 0, 1, 2))[0]
        return {"video": video, "clip_index": 0, **self.videos.metadata(index)}


@dataclass(frozen=True, eq=False)
class MultiViewVideos(VideoDataset):
    """All test views of each video, which is opened and decoded only once.

    Attributes:
        crops: the K spatial crops.
        num_clips: V.
    """

    _: KW_ONLY
    crops: SpatialCrops
    num_clips: int

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample with ``video``, uint8 [V K, 3, T, H, W]; view index = clip K + crop.

        Raises:
            BadVideoError: the video cannot be read.
        """
        with self.videos.open(index) as reader:
            clips = self.sampling.views(reader.num_frames, fps=reader.fps, num_views=self.num_clips)
            indices, positions = torch.unique(clips, return_inverse=True)
            frames = reader.get_frames(indices, transform=self.crops.resize)
        return {"video": self._crop_views(frames, positions), **self.videos.metadata(index)}

    def _crop_views(self, frames: Tensor, positions: Tensor) -> Tensor:
        """Crop all views of the clips.

        Args:
            frames: the distinct frames of all clips, uint8 [N, h, w, 3].
            positions: position in ``frames`` of each frame of the clips, int64 [V, T].

        Returns:
            uint8 [V K, 3, T, H, W].
        """
        crops = self.crops.crop(frames.permute(3, 0, 1, 2))
        size = self.crops.size
        views = frames.new_empty(len(positions), len(crops), positions.shape[1], size, size, 3)
        for clip, clip_views in zip(positions, views, strict=True):
            for crop, view in zip(crops, clip_views, strict=True):
                torch.index_select(crop.movedim(0, -1), 0, clip, out=view)
        return views.flatten(0, 1).movedim(-1, 1)
