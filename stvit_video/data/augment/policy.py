"""RandAugment (Cubuk et al. 2019) and AutoAugment (Cubuk et al. 2018) of clips."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from stvit_video.data.augment.operations import MAX_LEVEL, OPERATIONS, Change, apply_changes
from stvit_video.data.transforms import bernoulli, normal, randint
from stvit_video.errors import UserError

_RAND_AUGMENT = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness"),
    *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
# Probability of each operation that RandAugment has drawn, as in timm.
_RAND_AUGMENT_PROBABILITY = 0.5
# What posterizing is in each of AutoAugment's versions.
_POSTERIZE = {"original": "PosterizeOriginal", "originalr": "PosterizeIncreasing"}


class _Part(NamedTuple):
    """A part of a policy's text: a name and the number after it."""

    meaning: str
    allows: Callable[[float], bool]


_STD = {"mstd": _Part("standard deviation of the level", lambda number: True)}
_PARTS: Mapping[str, Mapping[str, _Part]] = {
    "rand": {
        "m": _Part("level, 0 to 10", lambda number: number <= MAX_LEVEL),
        "n": _Part("operations a clip, from 1", lambda number: number >= 1 and number % 1 == 0),
        **_STD,
        "inc": _Part(
            "0 or 1: whether a higher level is always stronger", lambda number: number in (0, 1)
        ),
    },
    **dict.fromkeys(_POSTERIZE, _STD),
}


@dataclass(frozen=True)
class Step:
    """An operation that is made with a probability, at a level from 0 to 10."""

    name: str
    probability: float
    level: float


@dataclass(frozen=True)
class AugmentationPolicy:
    """Draws some chains of steps, and makes each of their steps with the step's probability.

    RandAugment's chains are single operations, of which it draws several, with replacement;
    AutoAugment draws one of many pairs.

    Attributes:
        chains: what is drawn from, uniformly.
        count: chains a clip.
        level_std: the level is drawn from the normal distribution with this standard deviation
            around the step's, and cut to the range from 0 to 10.
        interpolation: of rotations, shears and translations: "bilinear" or "bicubic".
    """

    chains: tuple[tuple[Step, ...], ...]
    _: KW_ONLY
    count: int
    level_std: float
    interpolation: str

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 [C, T, H, W] to the same; all randomness comes from ``generator``."""
        changes = self.draw(generator=generator)
        return apply_changes(video, changes, interpolation=self.interpolation)

    def draw(self, *, generator: torch.Generator) -> list[Change]:
        """Draw what becomes of a clip."""
        chains = [
            self.chains[randint(len(self.chains), generator=generator)] for _ in range(self.count)
        ]
        return [
            self._draw_change(step, generator=generator)
            for chain in chains
            for step in chain
            if bernoulli(step.probability, generator=generator)
        ]

    def _draw_change(self, step: Step, *, generator: torch.Generator) -> Change:
        operation = OPERATIONS[step.name]
        level = normal(step.level, self.level_std, generator=generator)
        level = min(max(level, 0.0), MAX_LEVEL)
        if operation.is_signed and bernoulli(0.5, generator=generator):
            level = -level
        return Change(step.name, operation.argument(level))


def parse_policy(text: str, *, interpolation: str) -> AugmentationPolicy:
    """Read a policy as timm and PySlowFast write it: "rand-m7-n4-mstd0.5-inc1", "original".

    Raises:
        UserError: the text, that of AUG.AA_TYPE, is no policy.
    """
    kind, *parts = text.split("-")
    if kind not in _PARTS:
        raise UserError(
            f'AUG.AA_TYPE begins with "rand" (RandAugment), "original" or "originalr" '
            f'(AutoAugment), or is empty, but it is "{text}": write "rand-m7-n4-mstd0.5-inc1"'
        )
    given = _parse_parts(text, parts, allowed=_PARTS[kind])
    if kind == "rand":
        chains = _rand_augment(given.get("m", MAX_LEVEL), is_increasing=given.get("inc") == 1)
    else:
        chains = _auto_augment(_POSTERIZE[kind])
    return AugmentationPolicy(
        chains,
        count=int(given.get("n", 2)) if kind == "rand" else 1,
        level_std=given.get("mstd", 0.0),
        interpolation=interpolation,
    )


def _parse_parts(
    text: str, parts: Sequence[str], *, allowed: Mapping[str, _Part]
) -> dict[str, float]:
    given: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        name, number = (match[1], float(match[2])) if match else ("", 0.0)
        if name not in allowed or name in given or not allowed[name].allows(number):
            known = ", ".join(f"{name} ({part.meaning})" for name, part in allowed.items())
            raise UserError(
                f'AUG.AA_TYPE "{text}" has after "{text.partition("-")[0]}" parts joined by "-", '
                f'each at most once: {known}; but "{part}" is none of them'
            )
        given[name] = number
    return given


def _rand_augment(level: float, *, is_increasing: bool) -> tuple[tuple[Step, ...], ...]:
    names = [
        f"{name}Increasing" if is_increasing and f"{name}Increasing" in OPERATIONS else name
        for name in _RAND_AUGMENT
    ]
    return tuple((Step(name, _RAND_AUGMENT_PROBABILITY, level),) for name in names)


def _auto_augment(posterize: str) -> tuple[tuple[Step, ...], ...]:
    pairs = AutoAugment(AutoAugmentPolicy.IMAGENET).policies
    # Levels of operations that have none are None.
    return tuple(
        tuple(
            Step(posterize if name == "Posterize" else name, probability, level or 0)
            for name, probability, level in pair
        )
        for pair in pairs
    )
