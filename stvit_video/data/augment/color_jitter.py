"""Random brightness, contrast and saturation of clips."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stvit_video.data.augment.operations import Change, apply_changes
from stvit_video.data.draws import uniform

_OPERATIONS = ("Brightness", "Contrast", "Color")


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and saturation by random factors, in random order.

    Attributes:
        strength: the factors are drawn from 1 - strength to 1 + strength.
    """

    strength: float

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [C, T, H, W] to the same; all randomness comes from ``generator``."""
        return apply_changes(video, self.draw(generator=generator))

    def draw(self, *, generator: torch.Generator) -> list[Change]:
        """Draw what becomes of a clip."""
        low, high = 1 - self.strength, 1 + self.strength
        order = torch.randperm(len(_OPERATIONS), generator=generator).tolist()
        return [
            Change(_OPERATIONS[place], uniform(low, high, generator=generator)) for place in order
        ]
