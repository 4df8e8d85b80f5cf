"""What a stage with semantic tokens is made of.

Letters: B batch, T frames, H W grid of image tokens, h w of semantic tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from ..layers.block import BlockSpec
from ..layers.frames import PerFrame
from ..layers.window_block import window_block
from ..layers.windows import Size, WindowSize
from .layout import Unit, restores_image_tokens
from .pooling import SpatialPooling
from .reach import Reach
from .recovery import Recovery
from .regions import Windows
from .stgm import SemanticTokenGeneration, SemanticTokenLayer

# Builds one block: (window, shift, drop path) -> block.
BlockFactory = Callable[[WindowSize, Size, float], nn.Module]
# Builds what gives the initial cluster centres of some channels: (windows, channels) -> pooling.
PoolingFactory = Callable[[Windows, int], SpatialPooling]


@dataclass(frozen=True)
class Reaches:
    """What queries see of another grid, where windows of keys stay centred on theirs.

    Attributes:
        generation: which image tokens each generation layer sees; empty where key windows are
            moved inwards at the border.
        recovery: which semantic tokens an image token sees.
    """

    generation: tuple[Reach, ...] = ()
    recovery: Reach = field(default_factory=Reach)


@dataclass(frozen=True)
class SemanticSpec:
    """Where and how semantic tokens replace image tokens in a backbone.

    Attributes:
        stage: index (from 0) of the stage that ``units`` describes; later ones are semantic, or
            dense if it recovers the image tokens.
        units: layout of that stage.
        windows: how an axis is cut into windows and semantic tokens.
        pooling: builds what gives the initial cluster centres.
        key_windows: side of the key window of each generation layer, in image tokens; None for
            the whole grid.
        reaches: of generation and recovery layers.
        semantic_keys: whether semantic tokens are keys beside image tokens, for each generation
            layer.
        global_centers: add learned global cluster centres in the second generation layer (of
            the first generation, where there are several).
        global_windows: windows along each axis over which these centres differ.
        temporal_window: frames over which semantic tokens attend.
        layer_scale: initial layer scale of generation, semantic and recovery layers; 0 for none.
        shortcut: the first generation layer adds the pooled centres to what they gather.
    """

    stage: int
    units: tuple[Unit, ...]
    windows: Windows
    pooling: PoolingFactory
    key_windows: tuple[int | None, ...]
    semantic_keys: tuple[bool, ...]
    reaches: Reaches = field(default_factory=Reaches)
    global_centers: bool = True
    global_windows: int = 1
    temporal_window: int = 1
    layer_scale: float = 0.0
    shortcut: bool = True

    def ends_semantic(self, stage: int) -> bool:
        """Say whether the stage of this index ends in semantic tokens."""
        return stage >= self.stage and not restores_image_tokens(self.units)


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
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], global_centers: bool
) -> SemanticTokenGeneration:
    """Build the module that makes semantic tokens of image tokens, of a layer for each rate.

    Args:
        semantic: all about semantic tokens.
        spec: what the blocks of the stage have in common.
        drop_paths: stochastic depth rate of each layer.
        global_centers: this module has global centres.
    """
    reaches = semantic.reaches.generation or (None,) * len(drop_paths)
    layers = [
        SemanticTokenLayer(
            spec,
            windows=semantic.windows,
            key_window=key_window,
            semantic_keys=semantic_keys,
            drop_path=rate,
            layer_scale=semantic.layer_scale,
            shortcut=semantic.shortcut or index > 0,
            reach=reach,
        )
        for index, (key_window, semantic_keys, reach, rate) in enumerate(
            zip(semantic.key_windows, semantic.semantic_keys, reaches, drop_paths, strict=True)
        )
    ]
    return SemanticTokenGeneration(
        semantic.pooling(semantic.windows, spec.dim),
        layers=layers,
        dim=spec.dim,
        global_centers=global_centers,
        global_windows=semantic.global_windows,
    )


def recovery_layers(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], first: int
) -> "OrderedDict[str, nn.Module]":
    """Build layers from image and semantic tokens to image tokens, named by numbers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, rate in enumerate(drop_paths, first):
        layer = Recovery(
            spec,
            reach=semantic.reaches.recovery,
            drop_path=rate,
            layer_scale=semantic.layer_scale,
        )
        layers[str(number)] = PerFrame(layer)
    return layers
