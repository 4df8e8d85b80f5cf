import math

import pytest
import torch

from stvit_video.data.sampling import PROTOCOLS, PySlowFastSampling, VideoSwinSampling

VIDEO_SWIN = VideoSwinSampling(num_frames=32, sampling_rate=2)
PYSLOWFAST = PySlowFastSampling(num_frames=32, sampling_rate=2)
FPS = 30.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_video_swin_places_four_views_as_its_test_does():
    # 300 frames, span 64: 237 starts, avg 59.25; floor(i avg + avg / 2) by hand.
    assert VIDEO_SWIN.view_starts(300, fps=FPS, num_views=4) == [29, 88, 148, 207]
    views = VIDEO_SWIN.views(300, fps=FPS, num_views=4)
    assert views.shape == (4, 32)
    assert views[0].tolist() == list(range(29, 93, 2))
    assert views[3].tolist() == list(range(207, 271, 2))


def test_video_swin_center_clip_is_the_one_view_test():
    assert VIDEO_SWIN.center_clip(300, fps=FPS).tolist() == list(range(118, 182, 2))


@pytest.mark.parametrize("num_views", [1, 3])
def test_short_videos_loop_in_video_swin(num_views):
    small = VideoSwinSampling(num_frames=4, sampling_rate=3)
    for clip in small.views(10, fps=FPS, num_views=num_views):
        assert clip.tolist() == [0, 3, 6, 9]  # 10 frames are less than the span of 12
    assert small.views(5, fps=FPS, num_views=1).tolist() == [[0, 3, 1, 4]]
    assert small.random_clip(5, fps=FPS, generator=generator()).tolist() == [0, 3, 1, 4]


def test_video_swin_draws_every_start_that_fits_and_no_other():
    small = VideoSwinSampling(num_frames=4, sampling_rate=2)
    draws = generator()
    starts = [small.random_start(12, fps=FPS, generator=draws) for _ in range(500)]
    counts = [starts.count(start) for start in range(5)]
    assert sum(counts) == 500
    assert min(counts) > 70  # 100 each, standard deviation 9


def test_a_video_of_exactly_the_span_has_one_clip():
    assert VIDEO_SWIN.view_starts(64, fps=FPS, num_views=3) == [0, 0, 0]
    assert VIDEO_SWIN.random_start(64, fps=FPS, generator=generator()) == 0


def test_pyslowfast_places_views_as_its_test_does():
    # delta = 300 - 64; start i delta / V; linspace(start, start + 63, 32), rounded down.
    assert PYSLOWFAST.view_starts(300, fps=FPS, num_views=4) == [0, 59, 118, 177]
    first, second, *_ = PYSLOWFAST.views(300, fps=FPS, num_views=4)
    assert first[:5].tolist() == [0, 2, 4, 6, 8]
    assert first[-3:].tolist() == [58, 60, 63]  # 63 / 31 apart: the last frame is included
    assert second[0] == 59


def test_pyslowfast_clamps_short_videos():
    small = PySlowFastSampling(num_frames=4, sampling_rate=3)
    # linspace(0, 11, 4) = 0, 3.67, 7.33, 11
    assert small.views(9, fps=FPS, num_views=2).tolist() == [[0, 3, 7, 8]] * 2
    assert small.center_clip(9, fps=FPS).tolist() == [0, 3, 7, 8]


def test_pyslowfast_center_and_random_clips():
    assert PYSLOWFAST.center_start(300, fps=FPS) == 118
    draws = generator()
    starts = [PYSLOWFAST.random_start(300, fps=FPS, generator=draws) for _ in range(200)]
    assert 0 <= min(starts) < 10
    assert 226 < max(starts) <= 236
    assert any(start != math.floor(start) for start in starts)


def test_target_fps_stretches_the_interval():
    at_15 = {"num_frames": 8, "sampling_rate": 2, "target_fps": 15.0}
    # At 30 frames a second, 2 frames of 15 are 4 frames.
    swin = VideoSwinSampling(**at_15)
    assert swin.span(30.0) == 32
    assert swin.clip(5, 100, fps=30.0).tolist() == list(range(5, 37, 4))
    # At 10, they are 4/3 of a frame.
    assert swin.span(10.0) == 11
    assert swin.clip(0, 100, fps=10.0).tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    assert PySlowFastSampling(**at_15).span(10.0) == pytest.approx(32 / 3)


@pytest.mark.parametrize("name", ["video_swin", "pyslowfast"])
@pytest.mark.parametrize("target_fps", [0.0, 7.0, 50.0])
def test_indices_lie_in_the_video(name, target_fps):
    sampling = PROTOCOLS.get(name)(num_frames=5, sampling_rate=3, target_fps=target_fps)
    draws = generator()
    for total in (1, 2, 14, 15, 16, 200):
        clips = [
            *sampling.views(total, fps=25.0, num_views=3),
            sampling.center_clip(total, fps=25.0),
            *(sampling.random_clip(total, fps=25.0, generator=draws) for _ in range(20)),
        ]
        for clip in clips:
            assert clip.shape == (5,)
            assert clip.dtype == torch.int64
            assert 0 <= clip.min() <= clip.max() < total
