"""Scores of a video from the scores of its views: clips along time, crops along the frame.

Letters: V clips, C crops of each, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# What turns logits into scores.
HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
# What makes one score of the scores of several views; "sum" is PySlowFast's name of the mean.
ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda views: views.mean(dim=0),
    "max": lambda views: views.amax(dim=0),
}


def spread_clips(number: int, *, total: int) -> list[int]:
    """Choose ``number`` of ``total`` consecutive clips, evenly spread over the video.

    Cut the video into ``number`` equal pieces: the chosen clips are those that the pieces'
    centres fall into. So the accuracy with them stands for a test that samples only so many
    clips, which the first ones of a video would not.

    >>> [spread_clips(k, total=4) for k in (1, 2, 3, 4)]
    [[2], [1, 3], [0, 2, 3], [0, 1, 2, 3]]
    """
    return [(2 * piece + 1) * total // (2 * number) for piece in range(number)]


def ensemble_by_clips(
    scores: Tensor, *, num_clips: int, method: Callable[[Tensor], Tensor]
) -> Tensor:
    """Combine the views of one video, for every number of clips from 1 to all.

    Args:
        scores: float64 [V * C, K], view index = clip * C + crop.
        num_clips: V.
        method: one of :data:`ENSEMBLES`.

    Returns:
        [V, K]: row k - 1 is made of all crops of k clips (:func:`spread_clips`), the last row of
        all views.
    """
    clips = scores.unflatten(0, (num_clips, -1))
    return torch.stack(
        [
            method(clips[spread_clips(number, total=num_clips)].flatten(0, 1))
            for number in range(1, num_clips + 1)
        ]
    )
