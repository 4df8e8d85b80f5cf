"""The plan of a stage as data: which of its layers work on which tokens."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from stvit_video.errors import UserError

Kind = Literal["base", "stgm", "semantic"]


@dataclass(frozen=True)
class Unit:
    """A run of layers of one kind.

    Attributes:
        kind: ``base`` works on image tokens, ``stgm`` generates semantic tokens from them,
            ``semantic`` works on semantic tokens.
        depth: number of layers.
    """

    kind: Kind
    depth: int


def parse_layout(text: str, *, depth: int, depth_key: str = "SWIN.DEPTHS") -> tuple[Unit, ...]:
    """Read a layout such as ``"base 2, stgm 2, semantic 2"``.

    Args:
        text: units in the order in which they run: base, then stgm, then semantic. The first
            and the last may be left out.
        depth: number of layers of the stage, which the units must add up to.
        depth_key: the config key that says so, for messages.

    Raises:
        UserError: the text is not a layout, or its layers do not add up to ``depth``.
    """
    kinds = get_args(Kind)
    units = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s+(\d+)\s*", part)
        if match is None or match[1] not in kinds or int(match[2]) < 1:
            raise UserError(
                f"STVIT.LAYOUT is units of {', '.join(kinds)}, each with its number of layers, "
                f'but {part.strip()!r} of {text!r} is none: write "base 2, stgm 2, semantic 2".'
            )
        kind: Kind = match[1]  # type: ignore[assignment]
        units.append(Unit(kind=kind, depth=int(match[2])))
    order = [kinds.index(unit.kind) for unit in units]
    if sorted(set(order)) != order or "stgm" not in {unit.kind for unit in units}:
        raise UserError(
            f"STVIT.LAYOUT has one unit of each kind in the order {', '.join(kinds)}, and never "
            f"without stgm, but is {text!r}."
        )
    total = sum(unit.depth for unit in units)
    if total != depth:
        raise UserError(
            f"STVIT.LAYOUT {text!r} has {total} layers, but the stage has {depth} by "
            f"{depth_key}: change one of them."
        )
    return tuple(units)
