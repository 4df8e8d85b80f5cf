"""PyTorchVideo's data set with the reader, clip samplers and transforms of this package."""

import itertools

import numpy as np
import pytest
import torch
from made_videos import plain_decode
from pytorchvideo.data import LabeledVideoDataset
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from pytorchvideo.data.video import Video
from torch.utils.data import SequentialSampler

from stvit_video.data.decode import BACKENDS, open_video
from stvit_video.data.pytorchvideo import (
    CenterProtocolClip,
    ProtocolViews,
    RandomProtocolClip,
    ReaderPathHandler,
    SubsampleClip,
    pytorchvideo_functional,
)
from stvit_video.data.sampling import VideoSwinSampling

SAMPLING = VideoSwinSampling(num_frames=8, sampling_rate=2)
FPS = 25.0


def labeled_video_dataset(folder, clip_sampler, *, backend="pyav"):
    paths = LabeledVideoPaths.from_csv(str(folder / "test.csv"))
    paths.path_prefix = str(folder)
    subsample = SubsampleClip(SAMPLING, fps=FPS)
    dataset = LabeledVideoDataset(
        paths,
        clip_sampler,
        video_sampler=SequentialSampler,
        transform=lambda sample: {**sample, "video": subsample(sample["video"])},
        decode_audio=False,
        decoder=backend,
    )
    dataset.video_path_handler = ReaderPathHandler()
    return dataset


@pytest.mark.parametrize("backend", BACKENDS)
def test_pytorchvideos_data_set_returns_the_clips_of_the_protocol(video_folder, backend):
    sampler = ProtocolViews(SAMPLING, fps=FPS, num_views=3)
    dataset = labeled_video_dataset(video_folder, sampler, backend=backend)
    samples = list(itertools.islice(dataset, 18))
    assert [sample["clip_index"] for sample in samples] == [0, 1, 2] * 6
    assert [sample["label"] for sample in samples[::3]] == [0, 1, 2, 0, 1, 2]
    for index, name in enumerate(sample["video_name"] for sample in samples[::3]):
        frames = plain_decode(video_folder / name)
        views = SAMPLING.views(len(frames), fps=FPS, num_views=3)
        for view, sample in zip(views, samples[3 * index : 3 * index + 3], strict=True):
            assert sample["video"].dtype == torch.uint8
            expected = frames[view.numpy()].transpose(3, 0, 1, 2)
            np.testing.assert_array_equal(sample["video"], expected)


def test_center_and_random_clips_in_seconds(video_folder):
    center = next(labeled_video_dataset(video_folder, CenterProtocolClip(SAMPLING, fps=FPS)))
    frames = plain_decode(video_folder / "video 0.mp4")
    indices = SAMPLING.center_clip(len(frames), fps=FPS).numpy()
    np.testing.assert_array_equal(center["video"], frames[indices].transpose(3, 0, 1, 2))
    generator = torch.Generator().manual_seed(3)
    sampler = RandomProtocolClip(SAMPLING, fps=FPS, generator=generator)
    starts = {round(float(sampler(0, 1.0, {}).clip_start_sec) * FPS + 0.5) for _ in range(200)}
    assert starts == set(range(10))  # A span of 16 fits into 25 frames at 10 starts.


def test_a_reader_is_a_pytorchvideo_video(video_folder):
    with open_video(video_folder / "video 0.mp4") as reader:
        assert isinstance(reader, Video)
        assert reader.name == "video 0.mp4"


def test_folders_of_frames_are_left_to_pytorchvideo(tmp_path):
    with pytest.raises(AssertionError):  # PyTorchVideo's own error for an empty folder.
        ReaderPathHandler().video_from_path(str(tmp_path))


def test_importing_its_transforms_leaves_torchvision_unchanged():
    import sys

    functional = pytorchvideo_functional()
    clip = torch.arange(60).view(1, 1, 6, 10)
    assert functional.uniform_crop(clip, 6, 2)[0, 0, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert "torchvision.transforms.functional_tensor" not in sys.modules
