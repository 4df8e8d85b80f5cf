import pytest
import torch

from stvit_video.engine.predict import ENSEMBLES, ensemble_by_clips, spread_clips


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 7, 10])
def test_clips_are_distinct_and_symmetric(total):
    for number in range(1, total + 1):
        clips = spread_clips(number, total=total)
        assert len(set(clips)) == number
        assert set(clips) <= set(range(total))
        # Up to rounding, the clips are centered in the video.
        assert abs(sum(clips) - number * (total - 1) / 2) <= number / 2
    assert spread_clips(total, total=total) == list(range(total))


def test_one_of_four_clips_is_a_middle_one():
    assert [spread_clips(number, total=4) for number in (1, 2, 3)] == [[2], [1, 3], [0, 2, 3]]


def test_views_are_combined_by_clip():
    # Two clips of three crops: clip 0 scores 0, 1, 2 and clip 1 scores 30, 40, 50.
    scores = torch.tensor([0, 1, 2, 30, 40, 50], dtype=torch.float64)[:, None]
    mean = ensemble_by_clips(scores, num_clips=2, method=ENSEMBLES["sum"])
    assert mean.tolist() == [[40.0], [123 / 6]]
    highest = ensemble_by_clips(-scores, num_clips=2, method=ENSEMBLES["max"])
    assert highest.tolist() == [[-30.0], [0.0]]
