"""Assembly of a stage from its layout.

Letters: B batch, T frames, H W grid of image tokens, h w of semantic tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from ..layers.frames import PerFrame
from ..layers.windows import Size, WindowSize
from .layout import Unit
from .pooling import SpatialPooling
from .regions import Windows
from .stgm import SemanticTokenGeneration, SemanticTokenLayer

# Builds one block of a backbone: (window, shift, drop path) -> block.
BlockFactory = Callable[[WindowSize, Size, float], nn.Module]
# Builds one layer of the generation module: (key window, drop path) -> layer.
LayerFactory = Callable[[int, float], SemanticTokenLayer]
# Builds the initial pooling for tokens of some channels: (windows, channels) -> pooling.
PoolingFactory = Callable[[Windows, int], SpatialPooling]


@dataclass(frozen=True)
class SemanticSpec:
    """Where and how semantic tokens replace image tokens in a backbone.

    Attributes:
        stage: index (from 0) of the stage that ``units`` describes; later ones are semantic.
        units: layout of that stage.
        windows: how an axis is cut into windows and semantic tokens.
        pooling: builds the pooling that gives the initial cluster centres.
        key_windows: side of the key window of each generation layer, in image tokens.
        global_centers: learn global cluster centres.
        temporal_window: frames over which semantic tokens attend.
        layer_scale: initial layer scale of generation and semantic layers; 0 for none.
    """

    stage: int
    units: tuple[Unit, ...]
    windows: Windows
    pooling: PoolingFactory
    key_windows: tuple[int, ...]
    global_centers: bool = True
    temporal_window: int = 1
    layer_scale: float = 0.0


def base_blocks(
    factory: BlockFactory, *, window: Size, drop_paths: Sequence[float], first: int = 0
) -> "OrderedDict[str, nn.Module]":
    """Build blocks on image tokens: windows in turn unshifted and shifted by half a side.

    Names are layer numbers from ``first``.
    """
    half: Size = (window[0] // 2, window[1] // 2, window[2] // 2)
    return OrderedDict(
        (str(first + index), factory(window, half if index % 2 else (0, 0, 0), rate))
        for index, rate in enumerate(drop_paths)
    )


def semantic_blocks(
    factory: BlockFactory, *, spec: SemanticSpec, drop_paths: Sequence[float], first: int = 0
) -> "OrderedDict[str, nn.Module]":
    """Build blocks on semantic tokens: local and global in turn (paper, section 3.2).

    Local blocks attend within the semantic tokens of a window, global ones over the whole
    frame. With a temporal window of several frames they attend over those too, and global
    blocks shift it by half, so that windows of frames connect.
    """
    frames, tokens = spec.temporal_window, spec.windows.tokens
    local: WindowSize = (frames, tokens, tokens)
    whole: WindowSize = (frames, None, None)
    return OrderedDict(
        (
            str(first + index),
            factory(whole, (frames // 2, 0, 0), rate)
            if index % 2
            else factory(local, (0, 0, 0), rate),
        )
        for index, rate in enumerate(drop_paths)
    )


def layout_blocks(
    spec: SemanticSpec,
    *,
    dim: int,
    window: Size,
    base_factory: BlockFactory,
    semantic_factory: BlockFactory,
    layer_factory: LayerFactory,
    drop_paths: Sequence[float],
) -> "OrderedDict[str, nn.Module]":
    """Build the layers of the stage in which image tokens become semantic tokens.

    Each layer is named by its number in the dense stage, and the generation module by that of
    its first layer, so that the layers of a dense checkpoint find their places.

    Returns:
        modules which, one after the other, map ``[B, T, H, W, C]`` to ``[B, T, h, w, C]``.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    first = 0
    for unit in spec.units:
        rates = drop_paths[first : first + unit.depth]
        if unit.kind == "base":
            modules |= base_blocks(base_factory, window=window, drop_paths=rates, first=first)
        elif unit.kind == "stgm":
            pairs = zip(spec.key_windows, rates, strict=True)
            generation = SemanticTokenGeneration(
                spec.pooling(spec.windows, dim),
                layers=[layer_factory(*pair) for pair in pairs],
                dim=dim,
                global_centers=spec.global_centers,
            )
            modules[str(first)] = PerFrame(generation)
        else:
            modules |= semantic_blocks(semantic_factory, spec=spec, drop_paths=rates, first=first)
        first += unit.depth
    return modules
