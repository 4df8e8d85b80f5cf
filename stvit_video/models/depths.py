"""How deep each parameter of a backbone lies, told by its name."""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

# The stage, where there are several, and the number of a module in it, perhaps in a larger model.
_MODULE = re.compile(r"(?:.*?\.)??(?:stages\.(\d+)\.)?blocks\.(\d+)\.")
# What stands between the two, and the layer: counted from the module's own number for generation
# layers, and in the stage for others.
_GENERATION = re.compile(r"(?:generation\.)?module\.(?:(first)|(second)|further\.(\d+))\.")
_LAYER = re.compile(r"(?:semantic|recovery)\.(\d+)\.(?:module\.)?")
_EMBEDDINGS = ("patch_embed.", "position.")
_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.")


def depths_by_name(names: Iterable[str]) -> dict[str, int]:
    """Number parameters by layer: 0 embeddings, 1 to D the layers, D + 1 norm and head.

    A layer that generates semantic tokens has the depth of the dense layer whose place it takes;
    pooling and global centers have that of the first one. What leads from a stage to the next has
    the depth of the first layer there.
    """
    names = list(names)
    places = {name: _place(name) for name in names}
    sizes: dict[int, int] = {}
    for place in places.values():
        if place is not None:
            sizes[place.stage] = max(sizes.get(place.stage, 0), place.layer + 1)
    # Of each stage, and of what comes after the last one.
    starts = list(accumulate((sizes[stage] for stage in sorted(sizes)), initial=1))
    return {name: _depth(name, place, starts) for name, place in places.items()}


def dense_name(name: str) -> str | None:
    """Give the name that a parameter of a block would have in a dense model; None for others.

    Each layer stands in the place of a dense one, but is named by the module that it is part of:
    ``blocks.1.generation.module.second.norm1.weight`` is ``blocks.2.norm1.weight``.
    """
    place = _place(name)
    return None if place is None else f"{place.blocks}{place.layer}.{place.rest}"


class _Place(NamedTuple):
    """Where a parameter stands: the name of its stage's blocks, its layer there, its own name."""

    stage: int
    blocks: str
    layer: int
    rest: str


def _place(name: str) -> _Place | None:
    module = _MODULE.match(name)
    if module is None:
        return None
    layer, end = int(module[2]), module.end()
    if generation := _GENERATION.match(name, end):
        first, second, further = generation.groups()
        layer += 0 if first else 1 if second else 2 + int(further)
        end = generation.end()
    elif inner := _LAYER.match(name, end):
        layer, end = int(inner[1]), inner.end()
    return _Place(int(module[1] or 0), name[: module.start(2)], layer, name[end:])


def _depth(name: str, place: _Place | None, starts: list[int]) -> int:
    if place is not None:
        return starts[place.stage] + place.layer
    downsample = _DOWNSAMPLE.match(name)
    if downsample is not None:
        return starts[int(downsample[1]) + 1]
    return 0 if name.startswith(_EMBEDDINGS) else starts[-1]
