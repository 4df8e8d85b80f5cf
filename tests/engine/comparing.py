"""Comparison of runs, to the last bit."""

import torch

# Keys of a line that no two runs share.
_TIMES = {"dt", "dt_data", "dt_net", "eta", "rss"}


def without_times(line):
    return {key: value for key, value in line.items() if key not in _TIMES}


def same(one, other):
    """Compare nested dictionaries and sequences of tensors and values."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
