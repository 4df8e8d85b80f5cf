"""The plan of a stage as data: which of its layers work on which tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stvit_video.errors import UserError

Kind = Literal["base", "stgm", "semantic", "recovery"]

_REPEATED = re.compile(r"(\d+)\s*x\s*\(([^()]*)\)")
# Of one letter for each unit, see _letters: semantic tokens are recovered into image tokens or stay
# to the end. A dumbbell unit is a module of its own, as any other unit is.
_ORDER = re.compile(r"(b?gs?r)*b?(gs?)?")
_MODULE = re.compile(r"gs?r|\w")


@dataclass(frozen=True)
class Unit:
    """A run of layers of one kind.

    Attributes:
        kind: ``base`` works on image tokens, ``stgm`` generates semantic tokens from them,
            ``semantic`` works on semantic tokens, ``recovery`` brings them back into the image
            tokens.
        depth: number of layers.
    """

    kind: Kind
    depth: int


def parse_layout(text: str, *, depth: int, depth_key: str = "SWIN.DEPTHS") -> tuple[Unit, ...]:
    """Read a layout such as ``"base 2, stgm 2, semantic 2"``.

    Args:
        text: units in the order in which they run: base, then stgm, then semantic, then perhaps
            recovery, after which it may begin anew: ``"3 x (base 1, stgm 2, semantic 2, recovery
            1)"`` is three times the same. Base and semantic may be left out; a stgm has two layers
            or more (section 3.1).
        depth: number of layers of the stage, which the units must add up to.
        depth_key: the config key that says so, for messages.

    Raises:
        UserError: the text is not a layout, or its layers do not add up to ``depth``.
    """
    kinds = get_args(Kind)
    units = []
    for part in _REPEATED.sub(lambda match: ",".join([match[2]] * int(match[1])), text).split(","):
        match = re.fullmatch(r"\s*(\w+)\s+(\d+)\s*", part)
        if match is None or match[1] not in kinds or int(match[2]) < 1:
            raise UserError(
                f"STVIT.LAYOUT is units of {', '.join(kinds)}, each with its number of layers, "
                f'but {part.strip()!r} of {text!r} is none: write "base 2, stgm 2, semantic 2" or '
                '"3 x (base 1, stgm 2, semantic 2, recovery 1)".'
            )
        kind: Kind = match[1]  # type: ignore[assignment]
        units.append(Unit(kind=kind, depth=int(match[2])))
    letters = _letters(units)
    if _ORDER.fullmatch(letters) is None or "g" not in letters:
        raise UserError(
            "STVIT.LAYOUT has one unit of each kind in the order base, stgm, semantic, begins anew "
            f"after recovery alone, and is never without stgm, but is {text!r}."
        )
    if any(unit.kind == "stgm" and unit.depth < 2 for unit in units):
        raise UserError(
            "A stgm of STVIT.LAYOUT has at least two layers, of which the second adds global "
            f"cluster centers, but the layout is {text!r}: give it more."
        )
    total = sum(unit.depth for unit in units)
    if total != depth:
        raise UserError(
            f"STVIT.LAYOUT {text!r} has {total} layers, but the stage has {depth} by "
            f"{depth_key}: change one of them."
        )
    return tuple(units)


def modules_of(units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """Split a layout into what one module does each: a whole dumbbell unit, or a unit."""
    return [tuple(units[slice(*found.span())]) for found in _MODULE.finditer(_letters(units))]


def restores_image_tokens(units: Sequence[Unit]) -> bool:
    """Say whether a stage of this layout ends in image tokens."""
    return units[-1].kind in ("base", "recovery")


def _letters(units: Sequence[Unit]) -> str:
    return "".join("g" if unit.kind == "stgm" else unit.kind[0] for unit in units)
