"""Compare runs bit for bit."""

import torch

# Keys whose values differ between any two runs.
_TIMES = {"dt", "dt_data", "dt_net", "eta", "rss"}


def without_times(line):
    return {key: value for key, value in line.items() if key not in _TIMES}


def same(one, other):
    """Whether two nested dictionaries or sequences of tensors and values are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
