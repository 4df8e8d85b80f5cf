"""Random numbers of a training sample, all from the generator that is passed in."""

import torch


def uniform(low: float, high: float, *, generator: torch.Generator) -> float:
    """Draw a number from ``low`` to ``high``."""
    share = torch.rand((), dtype=torch.float64, generator=generator)
    return low + (high - low) * float(share)


def normal(mean: float, std: float, *, generator: torch.Generator) -> float:
    """Draw a number of the normal distribution."""
    return mean + std * float(torch.randn((), dtype=torch.float64, generator=generator))


def below(limit: int, *, generator: torch.Generator) -> int:
    """Draw a whole number from 0 to ``limit`` - 1."""
    return int(torch.randint(limit, (), generator=generator))


def chance(probability: float, *, generator: torch.Generator) -> bool:
    """Draw whether something happens."""
    return uniform(0.0, 1.0, generator=generator) < probability
