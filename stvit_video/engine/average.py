"""An exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class WeightAverage:
    """A copy of a model, in float32, whose weights follow the model's slowly.

    Unlike ``torch.optim.swa_utils.AveragedModel`` it averages the weights of a bfloat16 model in
    float32, where small steps towards them are not lost, and never averages integers.

    Args:
        model: what is followed; its floating-point weights and buffers are averaged, the others
            copied.
        decay: share of the average that stays at each update.

    Attributes:
        model: the average, in evaluation mode.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        own, followed = self.model.state_dict(), model.state_dict()
        pairs = [(own[name], followed[name]) for name in own]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model; to be called after each step of the optimizer."""
        averages = [average for average, _ in self._averaged]
        values = [value.to(average.dtype) for average, value in self._averaged]
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        self._copy(self._copied)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights that the model has now."""
        self._copy([*self._averaged, *self._copied])

    @staticmethod
    def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for own, followed in pairs:
            own.copy_(followed)
