"""Parameters of another type than float32, with nothing else to know for who calls the model."""

from typing import Any

import torch
from torch import Tensor, nn


def keep_parameters_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert a model to ``dtype``, and make it convert what it is called with and returns.

    Inputs become what the parameters are at that moment, so a copy of the model in another type
    works too; logits become float32, in which losses and scores are computed.
    """
    model.to(dtype)
    model.register_forward_pre_hook(_convert_inputs)
    model.register_forward_hook(_convert_logits)


def _convert_inputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next(model.parameters()).dtype
    return tuple(value.to(dtype) for value in inputs)


def _convert_logits(model: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return logits.float()
