"""Weights made by a rule from their names, so that two programs can be given the same ones.

``reference/`` holds what the official codes give with such weights.
"""

import zlib
from math import prod

import torch


def make_weight(key, shape):
    """The float32 weight that the rule gives to a name and a shape."""
    r = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    last = key.rpartition(".")[2]
    if last == "running_var":
        return 1 + 0.25 * r.abs()
    if last.startswith("layer_scale"):
        return 0.5 + 0.1 * r
    if len(shape) <= 1:
        return (1 if last == "weight" and shape else 0) + 0.1 * r
    if last == "weight":
        return r / prod(shape[1:]) ** 0.5
    return 0.5 * r


def make_state(shapes):
    """The state dict of a released file, whose names and shapes are given."""
    return {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith(("relative_position_index", "num_batches_tracked"))
        else make_weight(key, shape)
        for key, shape in shapes.items()
    }


def make_input(*shape, seed=0):
    """The input that goes with a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def refill(model):
    """Give every weight of ``model`` the rule's value for its own name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(make_weight(name, parameter.shape))
    return model
