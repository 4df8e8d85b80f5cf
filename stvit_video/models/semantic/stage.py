"""Build a stage with semantic tokens: from a layout to the layers.

Letters: B batch, T frames, H W grid of image tokens, h w of semantic tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from stvit_video.models.layers.block import Block, BlockSpec, window_block
from stvit_video.models.layers.windows import Size, WindowSize
from stvit_video.models.semantic.key_windows import CrossWindowAttention, KeyWindows
from stvit_video.models.semantic.layout import Unit, modules_of, restores_image_tokens
from stvit_video.models.semantic.pooling import SpatialPooling
from stvit_video.models.semantic.recovery import DumbbellUnit, Recovery, ReusingSequential
from stvit_video.models.semantic.stgm import (
    CentersRole,
    SemanticTokenGeneration,
    SemanticTokenLayer,
)


class PerFrame(nn.Module):
    """Apply a module for images to each frame of a video by itself.

    In training stochastic depth then drops branches of single frames, not of whole clips.

    Args:
        module: maps ``[N, H, W, C]``, or several such grids, to ``[N, h, w, c]``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *grids: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]``, or several of equal B and T, to ``[B, T, h, w, c]``."""
        frames = [grid.flatten(0, 1) for grid in grids]
        return self.module(*frames).unflatten(0, grids[0].shape[:2])


# By their numbers in the dense stage.
Layers = OrderedDict[str, nn.Module]
# Builds one block: (window, shift, drop path) -> block.
BlockFactory = Callable[[WindowSize, Size, float], nn.Module]


@dataclass(frozen=True)
class SemanticSpec:
    """Where and how semantic tokens replace image tokens in a backbone.

    Attributes:
        stage: index (from 0) of the stage that ``units`` describes; later ones are semantic, or
            dense if it recovers the image tokens.
        units: layout of that stage.
        tokens: side of the semantic tokens of a window (w_s).
        pooling: from channels to what gives the initial cluster centers.
        key_windows: which image tokens each generation layer sees.
        semantic_keys: whether semantic tokens are keys beside image tokens, for each generation
            layer.
        recovery_windows: which semantic tokens an image token sees.
        global_centers: from channels to learned centers for the second generation layer; None for
            none.
        centers_role: to what these are added besides the queries. Those that are added to the
            residual are in the first of several units alone (as released).
        reuse_tokens: units after the first begin with its semantic tokens, not with pooled ones.
        temporal_window: frames over which semantic tokens attend.
        cross_window: which semantic tokens a window of them sees in cross-window connections;
            None: the whole frame.
        layer_scale: initial layer scale of generation, semantic and recovery layers; 0 for none.
        shortcut: the first generation layer adds the initial centers to what they aggregate.
    """

    stage: int
    units: tuple[Unit, ...]
    tokens: int
    pooling: Callable[[int], SpatialPooling]
    key_windows: tuple[KeyWindows, ...]
    semantic_keys: tuple[bool, ...]
    recovery_windows: KeyWindows = field(default_factory=KeyWindows)
    global_centers: Callable[[int], nn.Parameter] | None = None
    centers_role: CentersRole = "queries"
    reuse_tokens: bool = False
    temporal_window: int = 1
    cross_window: KeyWindows | None = None
    layer_scale: float = 0.0
    shortcut: bool = True

    def ends_semantic(self, stage: int) -> bool:
        """Say whether the stage of this index ends in semantic tokens."""
        return stage >= self.stage and not restores_image_tokens(self.units)


def base_blocks(
    factory: BlockFactory, *, window: WindowSize, drop_paths: Sequence[float], first: int = 0
) -> Layers:
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
) -> Layers:
    """Build blocks on semantic tokens: local ones and cross-window connections in turn.

    Local blocks attend within the semantic tokens of a window, cross-window connections over the
    whole frame or a large window (paper, section 3.2). With a temporal window of several frames
    they attend over those too, and the latter shift it by half, so that windows of frames
    connect. None has a position bias: the paper's counts and the released code have none.
    """
    frames, tokens = semantic.temporal_window, semantic.tokens
    # Padding is no cluster center.
    factory = partial(
        window_block,
        spec=spec,
        position_bias=False,
        mask_padding=True,
        layer_scale=semantic.layer_scale,
    )
    layers: Layers = OrderedDict()
    for index, rate in enumerate(drop_paths):
        if not index % 2:
            block = factory((frames, tokens, tokens), (0, 0, 0), rate)
        elif semantic.cross_window is None:
            block = factory((frames, None, None), (frames // 2, 0, 0), rate)
        else:
            attention = CrossWindowAttention(
                spec.dim, num_heads=spec.num_heads, key_windows=semantic.cross_window
            )
            block = Block(
                spec, attention=attention, drop_path=rate, layer_scale=semantic.layer_scale
            )
        layers[str(first + index)] = block
    return layers


def generation(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], is_first: bool
) -> SemanticTokenGeneration:
    """Build the module that makes semantic tokens of image tokens, of a layer for each rate.

    Args:
        semantic: all about semantic tokens.
        spec: what the blocks of the stage have in common.
        drop_paths: stochastic depth rate of each layer.
        is_first: it is the first one of its stage.
    """
    first, second, *further = (
        SemanticTokenLayer(
            spec,
            key_windows=key_windows,
            semantic_keys=semantic_keys,
            shortcut=semantic.shortcut or index > 0,
            centers_role=semantic.centers_role,
            drop_path=rate,
            layer_scale=semantic.layer_scale,
        )
        for index, (key_windows, semantic_keys, rate) in enumerate(
            zip(semantic.key_windows, semantic.semantic_keys, drop_paths, strict=True)
        )
    )
    centers = None
    if semantic.global_centers is not None and (is_first or semantic.centers_role != "residual"):
        centers = semantic.global_centers(spec.dim)
    return SemanticTokenGeneration(
        semantic.pooling(spec.dim) if is_first or not semantic.reuse_tokens else None,
        first=first,
        second=second,
        further=further,
        global_centers=centers,
    )


def recovery_layers(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], first: int
) -> Layers:
    """Build layers from image and semantic tokens to image tokens, named by numbers."""
    return OrderedDict(
        (
            str(number),
            PerFrame(
                Recovery(
                    spec,
                    key_windows=semantic.recovery_windows,
                    drop_path=rate,
                    layer_scale=semantic.layer_scale,
                )
            ),
        )
        for number, rate in enumerate(drop_paths, first)
    )


def semantic_stage(
    semantic: SemanticSpec,
    *,
    spec: BlockSpec,
    window: WindowSize,
    position_bias: bool = True,
    drop_paths: Sequence[float],
    sequence: type[nn.Sequential] = nn.Sequential,
) -> nn.Sequential:
    """Build the stage in which image tokens become semantic tokens.

    Each layer is named by its number in the dense stage, and a module of several by that of its
    first layer, so that the layers of a dense checkpoint find their places.

    Args:
        semantic: the layout, and all about semantic tokens.
        spec: what the blocks of the stage have in common.
        window: of the blocks on image tokens.
        position_bias: these blocks learn a bias for each relative position.
        drop_paths: stochastic depth rate of each layer.
        sequence: what runs the layers one after the other.

    Returns:
        what maps ``[B, T, H, W, C]`` to ``[B, T, h, w, C]``, or to a grid of the same size where
        the layout recovers it.
    """
    base = partial(window_block, spec=spec, position_bias=position_bias)
    modules: Layers = OrderedDict()
    first, has_generation = 0, False
    for units in modules_of(semantic.units):
        name, parts = str(first), dict[str, Layers]()
        for unit in units:
            rates = drop_paths[first : first + unit.depth]
            if unit.kind == "base":
                layers = base_blocks(base, window=window, drop_paths=rates, first=first)
            elif unit.kind == "stgm":
                module = generation(
                    semantic, spec=spec, drop_paths=rates, is_first=not has_generation
                )
                layers, has_generation = OrderedDict({name: PerFrame(module)}), True
            elif unit.kind == "semantic":
                layers = semantic_blocks(semantic, spec=spec, drop_paths=rates, first=first)
            else:
                layers = recovery_layers(semantic, spec=spec, drop_paths=rates, first=first)
            parts[unit.kind] = layers
            first += unit.depth
        if "recovery" in parts:
            modules[name] = DumbbellUnit(
                parts["stgm"][name],
                semantic=nn.Sequential(parts.get("semantic", OrderedDict())),
                recovery=nn.ModuleDict(parts["recovery"]),
            )
        else:
            modules |= layers
    return (ReusingSequential if semantic.reuse_tokens else sequence)(modules)
