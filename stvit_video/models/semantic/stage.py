"""Assembly of a stage from its layout.

Letters: B batch, T frames, H W grid of image tokens, h w of semantic tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..layers.frames import PerFrame
from ..layers.window_block import BlockSpec, window_block
from ..layers.windows import Size, WindowSize
from .layout import Unit
from .pooling import SpatialPooling
from .regions import Windows
from .stgm import SemanticTokenGeneration, SemanticTokenLayer

# Builds one block: (window, shift, drop path) -> block.
BlockFactory = Callable[[WindowSize, Size, float], nn.Module]
# Builds what gives the initial cluster centres of some channels: (windows, channels) -> pooling.
PoolingFactory = Callable[[Windows, int], SpatialPooling]


@dataclass(frozen=True)
class SemanticSpec:
    """Where and how semantic tokens replace image tokens in a backbone.

    Attributes:
        stage: index (from 0) of the stage that ``units`` describes; later ones are semantic.
        units: layout of that stage.
        windows: how an axis is cut into windows and semantic tokens.
        pooling: builds what gives the initial cluster centres.
        key_windows: side of the key window of each generation layer, in image tokens; None for
            the whole grid.
        semantic_keys: whether semantic tokens are keys beside image tokens, for each generation
            layer.
        global_centers: add learned global cluster centres in the second generation layer.
        temporal_window: frames over which semantic tokens attend.
        layer_scale: initial layer scale of generation and semantic layers; 0 for none.
    """

    stage: int
    units: tuple[Unit, ...]
    windows: Windows
    pooling: PoolingFactory
    key_windows: tuple[int | None, ...]
    semantic_keys: tuple[bool, ...]
    global_centers: bool = True
    temporal_window: int = 1
    layer_scale: float = 0.0


def base_blocks(
    factory: BlockFactory, *, window: WindowSize, drop_paths: Sequence[float], first: int = 0
) -> "OrderedDict[str, nn.Module]":
    """Build blocks on image tokens: windows in turn unshifted and shifted by half a side.

    Names are layer numbers from ``first``.
    """
    t, h, w = (0 if side is None else side // 2 for side in window)
    return OrderedDict(
        (str(first + index), factory(window, (t, h, w) if index % 2 else (0, 0, 0), rate))
        for index, rate in enumerate(drop_paths)
    )


def semantic_blocks(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], first: int = 0
) -> "OrderedDict[str, nn.Module]":
    """Build blocks on semantic tokens: local and global in turn (paper, section 3.2).

    Local blocks attend within the semantic tokens of a window, global ones over the whole
    frame. With a temporal window of several frames they attend over those too, and global
    blocks shift it by half, so that windows of frames connect.
    """
    frames, tokens = semantic.temporal_window, semantic.windows.tokens
    local: WindowSize = (frames, tokens, tokens)
    whole: WindowSize = (frames, None, None)
    # Position says little about a cluster centre, and padding is not one: supplement, Table 7.
    factory = partial(
        window_block,
        spec=spec,
        position_bias=False,
        mask_padding=True,
        layer_scale=semantic.layer_scale,
    )
    return OrderedDict(
        (
            str(first + index),
            factory(whole, (frames // 2, 0, 0), rate)
            if index % 2
            else factory(local, (0, 0, 0), rate),
        )
        for index, rate in enumerate(drop_paths)
    )


def generation(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float]
) -> SemanticTokenGeneration:
    """Build the module that makes semantic tokens of image tokens, of a layer for each rate."""
    layers = [
        SemanticTokenLayer(
            spec.dim,
            num_heads=spec.num_heads,
            windows=semantic.windows,
            key_window=key_window,
            semantic_keys=semantic_keys,
            mlp_ratio=spec.mlp_ratio,
            drop_path=rate,
            layer_scale=semantic.layer_scale,
            norm_layer=spec.norm_layer,
        )
        for key_window, semantic_keys, rate in zip(
            semantic.key_windows, semantic.semantic_keys, drop_paths, strict=True
        )
    ]
    return SemanticTokenGeneration(
        semantic.pooling(semantic.windows, spec.dim),
        layers=layers,
        dim=spec.dim,
        global_centers=semantic.global_centers,
    )


def layout_blocks(
    semantic: SemanticSpec,
    *,
    spec: BlockSpec,
    window: WindowSize,
    position_bias: bool = True,
    drop_paths: Sequence[float],
) -> nn.Sequential:
    """Build the layers of the stage in which image tokens become semantic tokens.

    Each layer is named by its number in the dense stage, and the generation module by that of
    its first layer, so that the layers of a dense checkpoint find their places.

    Args:
        semantic: the layout, and all about semantic tokens.
        spec: what the blocks of the stage have in common.
        window: of the blocks on image tokens.
        position_bias: these blocks learn a bias for each relative position.
        drop_paths: stochastic depth rate of each layer.

    Returns:
        a module from ``[B, T, H, W, C]`` to ``[B, T, h, w, C]``.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    base = partial(window_block, spec=spec, position_bias=position_bias)
    first = 0
    for unit in semantic.units:
        rates = drop_paths[first : first + unit.depth]
        if unit.kind == "base":
            modules |= base_blocks(base, window=window, drop_paths=rates, first=first)
        elif unit.kind == "stgm":
            modules[str(first)] = PerFrame(generation(semantic, spec=spec, drop_paths=rates))
        else:
            modules |= semantic_blocks(semantic, spec=spec, drop_paths=rates, first=first)
        first += unit.depth
    return nn.Sequential(modules)
