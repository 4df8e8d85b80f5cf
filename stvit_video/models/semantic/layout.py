"""Parse STVIT.LAYOUT: which layers of a stage process image tokens, and which semantic tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stvit_video.errors import UserError

Kind = Literal["base", "stgm", "semantic", "recovery"]

_REPEATED = re.compile(r"(\d+)\s*x\s*\(([^()]*)\)")
# These match one letter for each unit, see _unit_letters. Semantic tokens are recovered into image
# tokens, or stay until the end of the stage.
_ORDER = re.compile(r"(b?gs?r)*b?(gs?)?")
# A dumbbell unit is one module, and so is each unit outside of one.
_MODULE = re.compile(r"gs?r|\w")


@dataclass(frozen=True)
class Unit:
    """Consecutive layers of one kind.

    Attributes:
        kind: ``base`` processes image tokens, ``stgm`` generates semantic tokens from them,
            ``semantic`` processes semantic tokens, ``recovery`` updates the image tokens from
            semantic tokens.
        depth: number of layers.
    """

    kind: Kind
    depth: int


def parse_layout(text: str, *, depth: int, depth_key: str = "SWIN.DEPTHS") -> tuple[Unit, ...]:
    """Parse a layout such as ``"base 2, stgm 2, semantic 2"``.

    Args:
        text: units in the order in which they run: base, stgm, semantic, and optionally recovery,
            after which the order may start again. ``"3 x (base 1, stgm 2, semantic 2, recovery
            1)"`` repeats units three times. Base and semantic are optional; a stgm has at least
            two layers (section 3.1).
        depth: number of layers of the stage, which the units must add up to.
        depth_key: config key of that number, for messages.

    Raises:
        UserError: the text is not a layout, or its layers do not add up to ``depth``.
    """
    kinds = get_args(Kind)
    units = []
    for part in _REPEATED.sub(lambda match: ",".join([match[2]] * int(match[1])), text).split(","):
        match = re.fullmatch(r"\s*(\w+)\s+(\d+)\s*", part)
        if match is None or match[1] not in kinds or int(match[2]) < 1:
            raise UserError(
                f"STVIT.LAYOUT is a list of units ({', '.join(kinds)}), each with its number of "
                f'layers, but {part.strip()!r} of {text!r} is none: write "base 2, stgm 2, '
                'semantic 2" or "3 x (base 1, stgm 2, semantic 2, recovery 1)".'
            )
        kind: Kind = match[1]  # type: ignore[assignment]
        units.append(Unit(kind=kind, depth=int(match[2])))
    letters = _unit_letters(units)
    if _ORDER.fullmatch(letters) is None or "g" not in letters:
        raise UserError(
            "STVIT.LAYOUT has one unit of each kind in the order base, stgm, semantic, starts "
            f"again only after recovery, and needs a stgm, but is {text!r}."
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


def group_units(units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """Group the units of a layout by module: a dumbbell unit is one module, others stay alone."""
    return [tuple(units[slice(*match.span())]) for match in _MODULE.finditer(_unit_letters(units))]


def restores_image_tokens(units: Sequence[Unit]) -> bool:
    """Return whether a stage of this layout ends in image tokens."""
    return units[-1].kind in ("base", "recovery")


def _unit_letters(units: Sequence[Unit]) -> str:
    """Return one letter for each unit: b(ase), g(eneration), s(emantic), r(ecovery)."""
    return "".join("g" if unit.kind == "stgm" else unit.kind[0] for unit in units)
