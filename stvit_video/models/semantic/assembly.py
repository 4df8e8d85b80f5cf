"""Assembly of a stage from its layout.

Letters: B batch, T frames, H W grid of image tokens, h w of semantic tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from ..layers.block import BlockSpec
from ..layers.frames import PerFrame
from ..layers.window_block import window_block
from ..layers.windows import WindowSize
from .dumbbell import DumbbellUnit, ReusingDumbbells, ReusingUnit
from .layout import Unit, runs
from .stage import (
    BlockFactory,
    SemanticSpec,
    base_blocks,
    generation,
    recovery_layers,
    semantic_blocks,
)

# By their numbers in the dense stage.
Layers = OrderedDict[str, nn.Module]


def layout_blocks(
    semantic: SemanticSpec,
    *,
    spec: BlockSpec,
    window: WindowSize,
    position_bias: bool = True,
    drop_paths: Sequence[float],
) -> Layers:
    """Build the layers of the stage in which image tokens become semantic tokens.

    Each layer is named by its number in the dense stage, and a module of several by that of its
    first layer, so that the layers of a dense checkpoint find their places.

    Args:
        semantic: the layout, and all about semantic tokens.
        spec: what the blocks of the stage have in common.
        window: of the blocks on image tokens.
        position_bias: these blocks learn a bias for each relative position.
        drop_paths: stochastic depth rate of each layer.

    Returns:
        modules which, one after the other, map ``[B, T, H, W, C]`` to ``[B, T, h, w, C]``, or to
        a grid of the same size where the layout recovers it.
    """
    units = _UnitBuilder(
        semantic,
        spec=spec,
        base=partial(window_block, spec=spec, position_bias=position_bias),
        window=window,
        drop_paths=drop_paths,
    )
    modules: Layers = OrderedDict()
    for run in runs(semantic.units):
        modules |= units.layers(run[0]) if len(run) == 1 else units.dumbbells(run)
    return modules


class _UnitBuilder:
    """Builds one unit of a layout after the other.

    Args:
        semantic: the layout, and all about semantic tokens.
        spec: what the blocks of the stage have in common.
        base: builds a block on image tokens.
        window: of these blocks.
        drop_paths: stochastic depth rate of each layer.
    """

    def __init__(
        self,
        semantic: SemanticSpec,
        *,
        spec: BlockSpec,
        base: BlockFactory,
        window: WindowSize,
        drop_paths: Sequence[float],
    ) -> None:
        self.semantic = semantic
        self.spec = spec
        self.base = base
        self.window = window
        self.drop_paths = drop_paths
        self.next = 0
        self.has_generation = False

    def layers(self, unit: Unit) -> Layers:
        """Build the next unit."""
        first = self.next
        self.next += unit.depth
        rates = self.drop_paths[first : self.next]
        if unit.kind == "base":
            return base_blocks(self.base, window=self.window, drop_paths=rates, first=first)
        if unit.kind == "semantic":
            return semantic_blocks(self.semantic, spec=self.spec, drop_paths=rates, first=first)
        if unit.kind == "recovery":
            return recovery_layers(self.semantic, spec=self.spec, drop_paths=rates, first=first)
        # Of several generations the first has the global centres, as in the released code.
        module = generation(
            self.semantic,
            spec=self.spec,
            drop_paths=rates,
            global_centers=self.semantic.global_centers and not self.has_generation,
        )
        self.has_generation = True
        return OrderedDict({str(first): PerFrame(module)})

    def dumbbells(self, run: Sequence[Unit]) -> Layers:
        """Build the units from a generation to the last recovery of its semantic tokens."""
        name = str(self.next)
        parts: list[dict[str, Layers]] = [{}]
        for unit in run:
            parts[-1][unit.kind] = self.layers(unit)
            if unit.kind == "recovery":
                parts.append({})
        first, *others = parts[:-1]
        (generate,) = first["stgm"].values()
        dumbbell = DumbbellUnit(
            generate,
            semantic=_sequence(first.get("semantic")),
            recovery=nn.ModuleDict(first["recovery"]),
        )
        if not others:
            return OrderedDict({name: dumbbell})
        reusing = [
            ReusingUnit(
                _sequence(part.get("base")),
                semantic=_sequence(part["semantic"]),
                recovery=nn.ModuleDict(part["recovery"]),
            )
            for part in others
        ]
        return OrderedDict({name: ReusingDumbbells(dumbbell, others=reusing)})


def _sequence(layers: Layers | None) -> nn.Sequential:
    return nn.Sequential(layers or OrderedDict())
