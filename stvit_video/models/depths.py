"""How deep each parameter of a backbone lies, told by its name."""

import re
from collections.abc import Iterable
from itertools import accumulate

# Stage (where there are several) and number of a block, and the layer in a generation module.
_BLOCK = re.compile(r"(?:stages\.(\d+)\.)?blocks\.(\d+)\.(?:module\.layers\.(\d+)\.)?")
_EMBEDDINGS = ("patch_embed.", "position.")
_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.")


def depths_by_name(names: Iterable[str]) -> dict[str, int]:
    """Number parameters by layer: 0 embeddings, 1 to D the layers, D + 1 norm and head.

    A layer that generates semantic tokens has the depth of the dense layer whose place it takes;
    pooling and global centres have that of the first one. What leads from a stage to the next has
    the depth of the first layer there.
    """
    names = list(names)
    places = {name: _place(name) for name in names}
    sizes: dict[int, int] = {}
    for place in places.values():
        if place is not None:
            stage, layer = place
            sizes[stage] = max(sizes.get(stage, 0), layer + 1)
    # Of each stage, and of what comes after the last one.
    starts = list(accumulate((sizes[stage] for stage in sorted(sizes)), initial=1))
    return {name: _depth(name, place, starts) for name, place in places.items()}


def _place(name: str) -> tuple[int, int] | None:
    match = _BLOCK.match(name)
    if match is None:
        return None
    return int(match[1] or 0), int(match[2]) + int(match[3] or 0)


def _depth(name: str, place: tuple[int, int] | None, starts: list[int]) -> int:
    if place is not None:
        return starts[place[0]] + place[1]
    downsample = _DOWNSAMPLE.match(name)
    if downsample is not None:
        return starts[int(downsample[1]) + 1]
    return 0 if name.startswith(_EMBEDDINGS) else starts[-1]
