"""Generate weights from their names, so that two programs can use the same weights.

``reference/`` holds the outputs of the official code with such weights.
"""

import zlib
from math import prod

import torch


def make_weight(key, shape):
    """Return the float32 weight for a name and a shape."""
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
    """Return a state dict with the names and shapes of a released file."""
    return {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith(("relative_position_index", "num_batches_tracked"))
        else make_weight(key, shape)
        for key, shape in shapes.items()
    }


def make_input(*shape, seed=0):
    """Return the random input of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def refill(model):
    """Set every weight of ``model`` to the value for its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(make_weight(name, parameter.shape))
    return model
