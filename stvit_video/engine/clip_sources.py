"""Where training clips can come from: the data set of a config, and PyTorchVideo's with its parts.

A source makes one sample of each video in a list when it is called; its speed can then be compared
with another's over the same videos.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from torch import Tensor
from torch.utils.data import SequentialSampler

from stvit_video.data.kinetics import MultiViewVideos, TrainingClips
from stvit_video.data.pytorchvideo import pytorchvideo_functional
from stvit_video.data.samplers import Draw
from stvit_video.data.workers import collate

# Makes one sample of each video, and returns the bytes of a sample's video.
Source = Callable[[], int]

PEER_DECODERS = ("pyav", "decord")
# PyTorchVideo measures clips in seconds, for all videos alike.
_PEER_FPS = 30


class OurClips:
    """Training samples of a data set, one of each video a call, or their frames alone."""

    def __init__(self, dataset: TrainingClips, *, frames_only: bool = False) -> None:
        self._dataset = dataset
        self._frames_only = frames_only
        self._epoch = 0

    def __call__(self) -> int:
        """Make the samples; returns the bytes of the last one's video."""
        self._epoch += 1
        for index in range(len(self._dataset)):
            video = self._frames(index) if self._frames_only else self._sample(index)
        return video.nbytes

    def _sample(self, index: int) -> Tensor:
        return collate([self._dataset[Draw(index, self._epoch)]])["video"]

    def _frames(self, index: int) -> Tensor:
        sampling = self._dataset.sampling
        with self._dataset.videos.open(index) as reader:
            return reader.get_frames(
                sampling.random_clip(reader.num_frames, fps=reader.fps, generator=None)
            )


class PeerClips:
    """PyTorchVideo's samples of the same length and size, one of each video a call.

    Of a clip it decodes every frame, from which its own transforms take those that are wanted.
    """

    def __init__(
        self, files: Sequence[Path], *, decoder: str, cfg: CfgNode, frames_only: bool = False
    ) -> None:
        self._count = len(files)
        seconds = cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE / _PEER_FPS
        self._dataset = LabeledVideoDataset(
            [(str(file), {"label": 0}) for file in files],
            make_clip_sampler("random", seconds),
            video_sampler=SequentialSampler,
            transform=_peer_subsample(cfg) if frames_only else _peer_transform(cfg),
            decode_audio=False,
            decoder=decoder,
        )
        self._samples: Iterator[dict[str, Any]] = iter(())
        self.seen: set[int] = set()

    def __call__(self) -> int:
        """Make the samples; returns the bytes of the last one's video.

        What it cannot read it replaces by the next video: ``seen`` holds the indices it read.

        Raises:
            RuntimeError: it can read none.
        """
        for _ in range(self._count):
            sample = self._next()
            self.seen.add(sample["video_index"])
        return sample["video"].nbytes

    def _next(self) -> dict[str, Any]:
        sample = next(self._samples, None)
        if sample is None:
            self._samples = iter(self._dataset)
            sample = next(self._samples, None)
        if sample is None:
            raise RuntimeError("PyTorchVideo can read none of the videos")
        return sample


def _peer_subsample(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    subsample = pytorchvideo_functional().uniform_temporal_subsample

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "video": subsample(sample["video"], cfg.DATA.NUM_FRAMES)}

    return transform


def _peer_transform(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Its subsampling, random resized crop and flip; not its normalisation, as ours is later."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    subsample = _peer_subsample(cfg)
    crop = partial(
        pytorchvideo_functional().random_resized_crop,
        target_height=size,
        target_width=size,
        scale=cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE or (0.08, 1.0),
        aspect_ratio=cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE or (0.75, 1.3333),
    )

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        video = crop(subsample(sample)["video"])
        return {**sample, "video": video.flip(-1) if torch.rand(()) < 0.5 else video}

    return transform


@dataclass
class OneItemForAllViews:
    """All test views of each video as the items that testing reads."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items; returns the bytes of the last one's video."""
        for index in range(len(self.dataset)):
            item = self.dataset[index]
        return item["video"].nbytes


@dataclass
class OneItemForEachView:
    """The same views, each an item for itself: opened, decoded, resized and cropped alone."""

    dataset: MultiViewVideos

    def __call__(self) -> int:
        """Make the items; returns the bytes of all those of the last video."""
        crops = self.dataset.crops
        for index in range(len(self.dataset)):
            views = [
                self._view(index, clip=clip, crop=crop).nbytes
                for clip in range(self.dataset.num_clips)
                for crop in range(crops.count)
            ]
        return sum(views)

    def _view(self, index: int, *, clip: int, crop: int) -> Tensor:
        dataset = self.dataset
        with dataset.videos.open(index) as reader:
            clips = dataset.sampling.views(
                reader.num_frames, fps=reader.fps, num_views=dataset.num_clips
            )
            frames = reader.get_frames(clips[clip], keep=dataset.crops.resize)
        view = dataset.crops.crop(frames.permute(3, 0, 1, 2))[crop]
        return view.movedim(0, -1).contiguous().movedim(-1, 0)
