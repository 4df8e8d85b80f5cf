"""Top-k accuracy: which clips or videos have their label among the k highest scores."""

import torch
from torch import Tensor

# The ranks that are reported; with fewer classes than 5, the second is the number of classes.
TOP_KS = (1, 5)


def topk_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the rows whose label is the first, and among the first five, of their scores.

    Args:
        scores: [B, classes], the higher the likelier.
        labels: int64 [B].

    Returns:
        Two counts, on the device of ``scores``, so that no step waits for them.
    """
    best = scores.topk(min(max(TOP_KS), scores.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].sum() for k in TOP_KS])


def error_percent(correct: float, total: float) -> float:
    """Return the share that is wrong, in percent."""
    return 100.0 * (1.0 - correct / total)
