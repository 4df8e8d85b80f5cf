"""Data sets over a CSV file of labelled videos, in the manner of Kinetics.

Letters: T frames of a clip, H W size, V clips of a video, K crops of a clip.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import Dataset

from stvit_video.data.decode import VideoError, VideoReader, open_video
from stvit_video.data.labeled_paths import LabeledPaths
from stvit_video.data.samplers import Draw, generator_for
from stvit_video.data.sampling import ClipSampling
from stvit_video.data.transforms import SpatialCrops, TrainTransform
from stvit_video.errors import UserError

# Enough to notice a wrong DATA.PATH_PREFIX at once, and few enough for a slow network disk.
_CHECKED_FILES = 8
# Frames held at their full size at a time while a whole test video is read.
_CHUNK = 32


class LabeledVideos:
    """The videos of a CSV file: their labels, their names, and how to open them.

    Args:
        paths: the lines of the CSV file.
        prefix: folder in front of relative paths.
        backend: decoder, see `open_video`.

    Raises:
        UserError: one of the first files does not exist.
    """

    def __init__(self, paths: LabeledPaths, *, prefix: str | Path, backend: str) -> None:
        self._paths = paths
        self._videos = LabeledVideoPaths(paths, path_prefix=str(prefix))
        self._backend = backend
        for index in range(min(_CHECKED_FILES, len(paths))):
            path, _ = self._videos[index]
            if not Path(path).is_file():
                raise UserError(
                    f"{paths.place(index)}: there is no video {path}; relative paths are taken "
                    "from DATA.PATH_PREFIX or, if that is empty, from the folder of the CSV file"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def about(self, index: int) -> dict[str, Any]:
        """What a sample says besides its pixels; the name is the path as the CSV file has it."""
        path, label = self._paths[index]
        return {"label": label, "video_index": index, "video_name": path}

    @contextmanager
    def open(self, index: int) -> Iterator[VideoReader]:
        """Open a video, and name its line of the CSV file if it cannot be read.

        Raises:
            UserError: the video cannot be opened, or what is read inside the block cannot.
        """
        path, _ = self._videos[index]
        try:
            with open_video(path, backend=self._backend) as reader:
                yield reader
        except VideoError as error:
            mend = "replace the file or take out the line"
            raise UserError(f"{self._paths.place(index)}: {error}; {mend}") from error


class TrainingClips(Dataset[dict[str, Any]]):
    """A random clip, randomly cropped, of each video.

    Args:
        videos: where they are.
        sampling: which frames make a clip.
        transform: crops and flips it.
        seed: what a sample is depends on it and on the `Draw` alone.
    """

    def __init__(
        self,
        videos: LabeledVideos,
        *,
        sampling: ClipSampling,
        transform: TrainTransform,
        seed: int,
    ) -> None:
        self._videos = videos
        self._sampling = sampling
        self._transform = transform
        self._seed = seed

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """Make a sample: ``video`` is uint8 [3, T, H, W].

        Raises:
            UserError: the video cannot be read.
        """
        generator = generator_for(draw, seed=self._seed)
        with self._videos.open(draw.index) as reader:
            indices = self._sampling.random_clip(
                reader.num_frames, fps=reader.fps, generator=generator
            )
            frames = reader.get_frames(indices)
        video = self._transform(frames, generator=generator)
        return {"video": video, "clip_index": 0, **self._videos.about(draw.index)}


class CentreClips(Dataset[dict[str, Any]]):
    """The clip in the middle of each video, and the square in the middle of the frame.

    Args:
        videos: where they are.
        sampling: which frames make a clip.
        crops: which square.
    """

    def __init__(
        self, videos: LabeledVideos, *, sampling: ClipSampling, crops: SpatialCrops
    ) -> None:
        self._videos = videos
        self._sampling = sampling
        self._crops = crops

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make a sample: ``video`` is uint8 [3, T, H, W].

        Raises:
            UserError: the video cannot be read.
        """
        with self._videos.open(index) as reader:
            indices = self._sampling.centre_clip(reader.num_frames, fps=reader.fps)
            frames = self._crops.resize(reader.get_frames(indices))
        return {"video": self._crops.crop(frames)[0], "clip_index": 0, **self._videos.about(index)}


class MultiViewVideos(Dataset[dict[str, Any]]):
    """All test views of each video, which is opened and decoded once for all of them.

    Args:
        videos: where they are.
        sampling: which frames make a clip.
        crops: which squares.
        num_clips: V.
    """

    def __init__(
        self,
        videos: LabeledVideos,
        *,
        sampling: ClipSampling,
        crops: SpatialCrops,
        num_clips: int,
    ) -> None:
        self._videos = videos
        self._sampling = sampling
        self._crops = crops
        self._num_clips = num_clips

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make an item: ``video`` is uint8 [V K, 3, T, H, W]; view index = clip K + crop.

        Raises:
            UserError: the video cannot be read.
        """
        with self._videos.open(index) as reader:
            clips = self._sampling.views(
                reader.num_frames, fps=reader.fps, num_views=self._num_clips
            )
            distinct, places = torch.unique(clips, return_inverse=True)
            frames = self._resized(reader, distinct)
        views = [self._crops.crop(frames[:, clip]) for clip in places]
        return {"video": torch.cat(views), **self._videos.about(index)}

    def _resized(self, reader: VideoReader, indices: Tensor) -> Tensor:
        """[3, T, H, W] of all frames that any view needs, each resized once."""
        chunks = [self._crops.resize(reader.get_frames(part)) for part in indices.split(_CHUNK)]
        return torch.cat(chunks, dim=1)
