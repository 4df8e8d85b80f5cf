"""Losses from which training must not go on."""

import math
from statistics import median

from stvit_video.errors import UserError

# Steps that a loss is compared with, and how many of them there must be.
_WINDOW = 20
_ENOUGH = 5


class BadLossError(UserError):
    """The loss is not finite or has exploded, or its gradient is not finite.

    Attributes:
        problem: what is wrong, "the loss became nan".
        loss: of this rank.
        is_of_gradient: the loss itself is right.
    """

    def __init__(self, problem: str, *, loss: float, is_of_gradient: bool = False) -> None:
        super().__init__(f"Training stopped because {problem}.")
        self.problem = problem
        self.loss = loss
        self.is_of_gradient = is_of_gradient


class LossGuard:
    """Say what is wrong with a loss.

    Args:
        factor: largest ratio of a loss to the median of those before it; 0: any finite loss is
            right.

    Attributes:
        recent: the losses that the next one is compared with, the oldest first.
    """

    def __init__(self, *, factor: float = 0.0) -> None:
        self.factor = factor
        self.recent: list[float] = []

    def problem(self, loss: float) -> str:
        """Return what is wrong with the loss of a step, as a part of a sentence.

        Args:
            loss: mean over all ranks, so that all of them judge alike.

        Returns:
            nothing for a good loss, which then counts among the recent ones.
        """
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if self.factor and len(self.recent) >= _ENOUGH:
            usual = median(self.recent)
            if loss > self.factor * usual:
                return (
                    f"the loss rose to {loss:.4g}, more than {self.factor:g} times "
                    f"(TRAIN.KILL_LOSS_EXPLOSION_FACTOR) the {usual:.4g} of the steps before"
                )
        self.recent = [*self.recent, loss][-_WINDOW:]
        return ""
