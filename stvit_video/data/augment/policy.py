"""RandAugment (Cubuk et al. 2019) and AutoAugment (Cubuk et al. 2018) of clips."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from stvit_video.data.augment.operations import MAX_LEVEL, OPERATIONS, SampledOp, apply_ops
from stvit_video.data.transforms import bernoulli, normal, randint
from stvit_video.errors import UserError

_RAND_AUGMENT_OPS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
# Probability of applying an operation that RandAugment has drawn, as in timm.
_RAND_AUGMENT_PROBABILITY = 0.5
# AutoAugment's posterize operation in each of its versions.
_AUTO_AUGMENT_POSTERIZE = {"original": "PosterizeOriginal", "originalr": "PosterizeIncreasing"}


class _Option(NamedTuple):
    """An option of a policy: its meaning, and whether a number is valid for it."""

    meaning: str
    is_valid: Callable[[float], bool]


_STD_OPTION = {"mstd": _Option("standard deviation of the level", lambda number: True)}
# {first word of a policy: {name: option}}
_OPTIONS: Mapping[str, Mapping[str, _Option]] = {
    "rand": {
        "m": _Option("level, 0 to 10", lambda number: number <= MAX_LEVEL),
        "n": _Option("operations per clip, from 1", lambda number: number >= 1 and number % 1 == 0),
        **_STD_OPTION,
        "inc": _Option(
            "0 or 1: whether a higher level is always stronger", lambda number: number in (0, 1)
        ),
    },
    **dict.fromkeys(_AUTO_AUGMENT_POSTERIZE, _STD_OPTION),
}


@dataclass(frozen=True)
class AugmentOp:
    """An operation of a policy, with its probability and its level from 0 to 10."""

    name: str
    probability: float
    level: float


@dataclass(frozen=True)
class AugmentationPolicy:
    """Draws sub-policies, and applies each of their operations with its probability.

    RandAugment draws several sub-policies of one operation each, with replacement; AutoAugment
    draws one of many pairs of operations.

    Attributes:
        sub_policies: drawn from uniformly.
        num_draws: sub-policies per clip.
        level_std: the level is drawn from the normal distribution around the operation's level
            with this standard deviation, and clamped to the range from 0 to 10.
        interpolation: of rotations, shears and translations: "bilinear" or "bicubic".
    """

    sub_policies: tuple[tuple[AugmentOp, ...], ...]
    _: KW_ONLY
    num_draws: int
    level_std: float
    interpolation: str

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """Augment a clip, uint8 [C, T, H, W], with random numbers of ``generator``."""
        return apply_ops(video, self.draw(generator=generator), interpolation=self.interpolation)

    def draw(self, *, generator: torch.Generator) -> list[SampledOp]:
        """Draw the operations for a clip."""
        drawn = [
            self.sub_policies[randint(len(self.sub_policies), generator=generator)]
            for _ in range(self.num_draws)
        ]
        return [
            self._sample(op, generator=generator)
            for sub_policy in drawn
            for op in sub_policy
            if bernoulli(op.probability, generator=generator)
        ]

    def _sample(self, op: AugmentOp, *, generator: torch.Generator) -> SampledOp:
        operation = OPERATIONS[op.name]
        level = normal(op.level, self.level_std, generator=generator)
        level = min(max(level, 0.0), MAX_LEVEL)
        if operation.is_signed and bernoulli(0.5, generator=generator):
            level = -level
        return SampledOp(op.name, operation.argument(level))


def parse_policy(text: str, *, interpolation: str) -> AugmentationPolicy:
    """Parse a policy as timm and PySlowFast write it: "rand-m7-n4-mstd0.5-inc1", "original".

    Raises:
        UserError: the text, the value of AUG.AA_TYPE, is not a policy.
    """
    kind, *parts = text.split("-")
    if kind not in _OPTIONS:
        raise UserError(
            'AUG.AA_TYPE must begin with "rand" (RandAugment), "original" or "originalr" '
            f'(AutoAugment), or be empty, but it is "{text}"; try "rand-m7-n4-mstd0.5-inc1"'
        )
    options = _parse_options(text, parts, known=_OPTIONS[kind])
    if kind == "rand":
        sub_policies = _rand_augment(
            options.get("m", MAX_LEVEL), is_increasing=options.get("inc") == 1
        )
    else:
        sub_policies = _auto_augment(_AUTO_AUGMENT_POSTERIZE[kind])
    return AugmentationPolicy(
        sub_policies,
        num_draws=int(options.get("n", 2)) if kind == "rand" else 1,
        level_std=options.get("mstd", 0.0),
        interpolation=interpolation,
    )


def _parse_options(
    text: str, parts: Sequence[str], *, known: Mapping[str, _Option]
) -> dict[str, float]:
    options: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        name, number = (match[1], float(match[2])) if match else ("", 0.0)
        if name not in known or name in options or not known[name].is_valid(number):
            valid = ", ".join(f"{name} ({option.meaning})" for name, option in known.items())
            raise UserError(
                f'AUG.AA_TYPE "{text}" has an invalid option "{part}"; the options after '
                f'"{text.partition("-")[0]}", joined by "-" and each at most once, are: {valid}'
            )
        options[name] = number
    return options


def _rand_augment(level: float, *, is_increasing: bool) -> tuple[tuple[AugmentOp, ...], ...]:
    names = [
        f"{name}Increasing" if is_increasing and f"{name}Increasing" in OPERATIONS else name
        for name in _RAND_AUGMENT_OPS
    ]
    return tuple((AugmentOp(name, _RAND_AUGMENT_PROBABILITY, level),) for name in names)


def _auto_augment(posterize: str) -> tuple[tuple[AugmentOp, ...], ...]:
    pairs = AutoAugment(AutoAugmentPolicy.IMAGENET).policies
    # torchvision's level is None for operations without one.
    return tuple(
        tuple(
            AugmentOp(posterize if name == "Posterize" else name, probability, level or 0)
            for name, probability, level in pair
        )
        for pair in pairs
    )
