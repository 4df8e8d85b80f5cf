"""Build the layers of a stage with semantic tokens from its layout.

Notation: B batch, T frames, N frames of all clips, H W grid of image tokens, h w grid of semantic
tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from stvit_video.models.layers.block import Block, BlockSpec, window_block
from stvit_video.models.layers.windows import Size, WindowSize
from stvit_video.models.semantic.key_windows import CrossWindowAttention, KeyWindows
from stvit_video.models.semantic.layout import Unit, group_units, restores_image_tokens
from stvit_video.models.semantic.pooling import SpatialPooling
from stvit_video.models.semantic.recovery import DumbbellUnit, Recovery, ReusingSequential
from stvit_video.models.semantic.stgm import (
    CentersRole,
    SemanticTokenGeneration,
    SemanticTokenLayer,
)

# Layers by their numbers in the dense stage.
Layers = OrderedDict[str, nn.Module]
# Function that builds a block from (window, shift, drop path).
BlockFactory = Callable[[WindowSize, Size, float], nn.Module]


@dataclass(frozen=True)
class SemanticSpec:
    """Settings of the semantic tokens of a backbone.

    Attributes:
        stage: index (from 0) of the stage that ``units`` describes. Later stages process semantic
            tokens, or image tokens if this stage recovers them.
        units: layout of that stage.
        tokens: semantic tokens along each axis of a window (w_s).
        pooling: builds the pooling of initial cluster centers for a number of channels.
        key_windows: image tokens that each generation layer sees.
        semantic_keys: whether semantic tokens are keys beside image tokens, for each generation
            layer.
        recovery_windows: semantic tokens that an image token sees.
        global_centers: builds the learned centers of the second generation layer for a number of
            channels; None for none.
        centers_role: where these are added besides the queries. With "residual", only the first
            of several units has them (released code).
        reuse_tokens: units after the first start from its semantic tokens instead of pooled ones.
        temporal_window: frames over which semantic tokens attend.
        cross_window: semantic tokens that a window of them sees in cross-window connections;
            None for the whole frame.
        layer_scale: initial layer scale of generation, semantic and recovery layers; 0 for none.
        shortcut: whether the first generation layer adds the initial centers to what they
            aggregate.
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
        """Return whether the stage of this index ends in semantic tokens."""
        return stage >= self.stage and not restores_image_tokens(self.units)


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

    Each layer is named by its number in the dense stage, and a module of several layers by that of
    its first one, so that weights of a dense checkpoint can be matched to layers.

    Args:
        semantic: layout and other settings of the semantic tokens.
        spec: settings shared by the blocks of the stage.
        window: attention window of the blocks on image tokens.
        position_bias: whether these blocks learn a bias for each relative position.
        drop_paths: stochastic depth rate of each layer.
        sequence: class of the returned container.

    Returns:
        a module that maps ``[B, T, H, W, C]`` to ``[B, T, h, w, C]``, or to a grid of the same
        size if the layout recovers image tokens.
    """
    base = partial(window_block, spec=spec, position_bias=position_bias)
    modules: Layers = OrderedDict()
    first, has_generation = 0, False
    for units in group_units(semantic.units):
        name, parts = str(first), dict[str, Layers]()
        for unit in units:
            rates = drop_paths[first : first + unit.depth]
            if unit.kind == "base":
                layers = base_blocks(base, window=window, drop_paths=rates, first=first)
            elif unit.kind == "stgm":
                module = generation_module(
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


def base_blocks(
    factory: BlockFactory, *, window: WindowSize, drop_paths: Sequence[float], first: int = 0
) -> Layers:
    """Build blocks on image tokens, in turn with regular windows and with windows shifted by half.

    Layers are numbered from ``first``.
    """
    t, h, w = (0 if side is None else side // 2 for side in window)
    return OrderedDict(
        (str(first + index), factory(window, (t, h, w) if index % 2 else (0, 0, 0), rate))
        for index, rate in enumerate(drop_paths)
    )


def semantic_blocks(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], first: int = 0
) -> Layers:
    """Build blocks on semantic tokens, in turn local attention and cross-window connections.

    Local attention is inside the semantic tokens of a window, cross-window connections are over
    the whole frame or a large window (paper, section 3.2). A temporal window of several frames
    extends both over time; cross-window connections shift it by half to connect neighboring
    temporal windows. No block has a position bias, in accordance with the paper's parameter counts
    and the released code.
    """
    frames, tokens = semantic.temporal_window, semantic.tokens
    # Padding is masked, because it is not a cluster center.
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


def generation_module(
    semantic: SemanticSpec, *, spec: BlockSpec, drop_paths: Sequence[float], is_first: bool
) -> SemanticTokenGeneration:
    """Build the module that generates semantic tokens from image tokens.

    Args:
        semantic: settings of the semantic tokens.
        spec: settings shared by the blocks of the stage.
        drop_paths: stochastic depth rate of each layer.
        is_first: whether it is the first generation module of its stage.
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
    """Build layers that recover image tokens from semantic tokens, numbered from ``first``."""
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


class PerFrame(nn.Module):
    """Apply an image module to each frame of a video independently.

    Stochastic depth then drops branches of single frames instead of whole clips.

    Args:
        module: maps ``[N, H, W, C]``, or several such grids, to ``[N, h, w, C]``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *grids: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]``, or several of equal B and T, to ``[B, T, h, w, C]``."""
        frames = [grid.flatten(0, 1) for grid in grids]
        return self.module(*frames).unflatten(0, grids[0].shape[:2])
