"""Layer depths of parameters, and their names in a dense model, derived from parameter names."""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

# Stage (if there are several) and number of a module, with an optional prefix of a larger model.
_MODULE = re.compile(r"(?:.*?\.)??(?:stages\.(\d+)\.)?blocks\.(\d+)\.")
# Layer inside a module. Generation layers count from the number of the module, the others carry
# their number in the stage.
_GENERATION = re.compile(r"(?:generation\.)?module\.(?:(first)|(second)|further\.(\d+))\.")
_LAYER = re.compile(r"(?:semantic|recovery)\.(\d+)\.(?:module\.)?")
_EMBEDDINGS = ("patch_embed.", "position.")
_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.")


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Return the depth of each parameter: 0 for embeddings, 1 to D for layers, D + 1 for the head.

    The final norm has depth D + 1 too. A layer that generates semantic tokens has the depth of the
    dense layer that it replaces; pooling and global centers have that of the first generation
    layer. Downsampling has the depth of the first layer of the next stage.
    """
    locations = {name: _locate(name) for name in names}
    stage_depths: dict[int, int] = {}
    for location in locations.values():
        if location is not None:
            depth = max(stage_depths.get(location.stage, 0), location.layer + 1)
            stage_depths[location.stage] = depth
    # Depth of the first layer of each stage, and of the head.
    starts = list(accumulate((stage_depths[stage] for stage in sorted(stage_depths)), initial=1))
    return {name: _depth(name, location, starts) for name, location in locations.items()}


def dense_name(name: str) -> str | None:
    """Return the name of a block's parameter in a dense model; None for other parameters.

    Each layer replaces a dense one, but is named after the module that contains it:
    ``blocks.1.generation.module.second.norm1.weight`` is ``blocks.2.norm1.weight``.
    """
    location = _locate(name)
    return None if location is None else f"{location.prefix}{location.layer}.{location.suffix}"


class _Location(NamedTuple):
    """Layer of a parameter: the stage, the layer in it, and the name before and after the layer."""

    stage: int
    prefix: str
    layer: int
    suffix: str


def _locate(name: str) -> _Location | None:
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
    return _Location(int(module[1] or 0), name[: module.start(2)], layer, name[end:])


def _depth(name: str, location: _Location | None, starts: list[int]) -> int:
    if location is not None:
        return starts[location.stage] + location.layer
    downsample = _DOWNSAMPLE.match(name)
    if downsample is not None:
        return starts[int(downsample[1]) + 1]
    return 0 if name.startswith(_EMBEDDINGS) else starts[-1]
