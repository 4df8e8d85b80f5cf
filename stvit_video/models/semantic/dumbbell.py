"""Dumbbell units: from image tokens to semantic tokens and back (paper, section 3.3).

Letters: B batch, T frames, H W grid of image tokens, h w grid of semantic tokens, C channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class DumbbellUnit(nn.Module):
    """Generates semantic tokens, works on them, and recovers the image tokens.

    Args:
        generation: maps image tokens ``[B, T, H, W, C]`` to semantic tokens ``[B, T, h, w, C]``.
        semantic: blocks on semantic tokens.
        recovery: layers from image and semantic tokens to image tokens.
    """

    def __init__(
        self, generation: nn.Module, *, semantic: nn.Sequential, recovery: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.generation = generation
        self.semantic = semantic
        self.recovery = recovery

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens of the same shape."""
        return self.exchange(x)[0]

    def exchange(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same, and give the semantic tokens ``[B, T, h, w, C]`` besides."""
        semantic_tokens = self.semantic(self.generation(image_tokens))
        return recover(self.recovery, image_tokens, semantic_tokens), semantic_tokens


class ReusingUnit(nn.Module):
    """A unit without generation: it goes on with the semantic tokens of the unit before.

    Args:
        base: blocks on image tokens.
        semantic: blocks on semantic tokens.
        recovery: layers from image and semantic tokens to image tokens.
    """

    def __init__(
        self, base: nn.Sequential, *, semantic: nn.Sequential, recovery: nn.ModuleDict
    ) -> None:
        super().__init__()
        self.base = base
        self.semantic = semantic
        self.recovery = recovery

    def forward(self, image_tokens: Tensor, semantic_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update image tokens ``[B, T, H, W, C]`` and semantic tokens ``[B, T, h, w, C]``."""
        image_tokens = self.base(image_tokens)
        semantic_tokens = self.semantic(semantic_tokens)
        return recover(self.recovery, image_tokens, semantic_tokens), semantic_tokens


class ReusingDumbbells(nn.Module):
    """Units of which the first alone generates semantic tokens (paper, Table 9).

    Args:
        first: generates them.
        others: take them up, one after the other.
    """

    def __init__(self, first: DumbbellUnit, *, others: Sequence[ReusingUnit]) -> None:
        super().__init__()
        self.first = first
        self.others = nn.ModuleList(others)

    def forward(self, x: Tensor) -> Tensor:
        """Map image tokens ``[B, T, H, W, C]`` to image tokens of the same shape."""
        x, semantic_tokens = self.first.exchange(x)
        for unit in self.others:
            x, semantic_tokens = unit(x, semantic_tokens)
        return x


def recover(layers: nn.ModuleDict, image_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
    """Run layers of recovery, each on the image tokens of the one before."""
    for layer in layers.values():
        image_tokens = layer(image_tokens, semantic_tokens)
    return image_tokens
