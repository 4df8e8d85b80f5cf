"""Top-k accuracy: which clips or videos have their label among the k highest scores."""

import torch
from torch import Tensor

# The ranks that are reported; with fewer classes than 5, the second is the number of classes.
TOP_KS = (1, 5)


def topk_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the rows whose label is the first, and among the first five, of their scores.

    Args:
        scores: [B, classes], the higher the likelier.
        labels: int64 [B]; or soft targets [B, classes], as :func:`_merge_mixed` takes them.

    Returns:
        Two counts, on the device of ``scores``, so that no step waits for them.
    """
    if labels.is_floating_point():
        scores, labels = _merge_mixed(scores, labels)
    best = scores.topk(min(max(TOP_KS), scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].sum() for k in TOP_KS])


def _merge_mixed(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Take the two classes of a mixed clip for one, as PySlowFast does.

    Where a target mixes two classes, the score of the one with the larger share becomes the sum of
    both, and the other's 0. So the accuracy of training on mixed clips is a rough figure, and says
    nothing beside one without mixing.

    Returns:
        the scores, and the label of the larger share.
    """
    shares, classes = targets.topk(2, dim=1)
    first, second = classes.split(1, dim=1)
    # Smoothing alone leaves all classes but one the same share.
    is_mixed = shares[:, 1:] > targets.amin(dim=1, keepdim=True)
    moved = scores.gather(1, second) * is_mixed
    return scores.scatter_add(1, first, moved).scatter_add(1, second, -moved), first[:, 0]


def error_percent(correct: float, total: float) -> float:
    """Return the share that is wrong, in percent."""
    return 100.0 * (1.0 - correct / total)
