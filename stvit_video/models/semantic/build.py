"""From a config to the description of semantic tokens."""

from collections.abc import Callable
from functools import partial
from math import isqrt

from fvcore.common.config import CfgNode

from stvit_video.errors import UserError

from .centers import LearnedCenters, PositionedPooling
from .layout import parse_layout
from .pooling import (
    AdaptiveAveragePooling,
    AdaptiveMaxPooling,
    IntraInterPooling,
    SpatialPooling,
)
from .reach import CentredReach, CentredWindow, Reach
from .regions import Windows
from .released import PaddedPooling, PaddedReach
from .stage import PoolingFactory, Reaches, SemanticSpec

# STVIT.SEMANTIC_KEYS: number of generation layers -> whether each has semantic tokens as keys.
_SEMANTIC_KEYS: dict[str, Callable[[int], tuple[bool, ...]]] = {
    "all": lambda layers: (True,) * layers,
    "later": lambda layers: (False,) + (True,) * (layers - 1),
    "none": lambda layers: (False,) * layers,
}

# STVIT.POOLING.
_POOLINGS: dict[str, PoolingFactory] = {
    "average": lambda windows, dim: AdaptiveAveragePooling(windows),
    "max": lambda windows, dim: AdaptiveMaxPooling(windows),
    "intra_inter": lambda windows, dim: IntraInterPooling(windows, dim=dim),
}


def swin_semantic(cfg: CfgNode) -> SemanticSpec:
    """Describe the semantic tokens of a Swin.

    Raises:
        UserError: their keys do not fit together.
    """
    stage, window = cfg.STVIT.STAGE - 1, cfg.SWIN.WINDOW_SIZE
    if window[1] != window[2]:
        raise UserError(
            f"Semantic tokens are generated in square windows, but SWIN.WINDOW_SIZE is {window}: "
            "make its rows and columns equal."
        )
    return _semantic_spec(
        cfg, stage=stage, window=window[1], depth=cfg.SWIN.DEPTHS[stage], depth_key="SWIN.DEPTHS"
    )


def deit_semantic(cfg: CfgNode) -> SemanticSpec:
    """Describe the semantic tokens of a DeiT.

    Raises:
        UserError: their keys do not fit together.
    """
    return _semantic_spec(cfg, stage=0, window=None, depth=cfg.DEIT.DEPTH, depth_key="DEIT.DEPTH")


def _semantic_spec(
    cfg: CfgNode, *, stage: int, window: int | None, depth: int, depth_key: str
) -> SemanticSpec:
    initial, *more = cfg.STVIT.INITIALIZATION.split("+")
    units = parse_layout(cfg.STVIT.LAYOUT, depth=depth, depth_key=depth_key)
    depths = {unit.depth for unit in units if unit.kind == "stgm"}
    if len(depths) > 1:
        raise UserError(
            f"The stgm units of STVIT.LAYOUT {cfg.STVIT.LAYOUT!r} have different numbers of "
            "layers: STVIT.KEY_WINDOWS is the same for all, so give them the same number."
        )
    (layers,) = depths
    if layers != len(cfg.STVIT.KEY_WINDOWS):
        raise UserError(
            f"STVIT.KEY_WINDOWS has one side for each layer of a stgm unit of STVIT.LAYOUT "
            f"({layers}), but is {cfg.STVIT.KEY_WINDOWS}: give it {layers} entries."
        )
    if "global" in more and layers < 2:
        raise UserError(
            "Global centres are added in the second stgm layer, but STVIT.LAYOUT has one: set "
            "STVIT.INITIALIZATION spatial or write stgm 2."
        )
    windows = Windows(window=window, tokens=isqrt(cfg.STVIT.NUM_TOKENS))
    pooling = _POOLINGS[cfg.STVIT.POOLING]
    if initial == "global":
        pooling = _learned
    elif "position" in more:
        pooling = partial(_positioned, pooling=pooling)
    if cfg.STVIT.BORDER.startswith("released"):
        pooling = partial(_padded, pooling=pooling)
    return SemanticSpec(
        stage=stage,
        units=units,
        windows=windows,
        pooling=pooling,
        key_windows=tuple(side or None for side in cfg.STVIT.KEY_WINDOWS),
        semantic_keys=_SEMANTIC_KEYS[cfg.STVIT.SEMANTIC_KEYS](layers),
        reaches=_reaches(cfg, windows),
        global_centers="global" in more,
        global_windows=cfg.STVIT.GLOBAL_WINDOWS,
        temporal_window=cfg.STVIT.TEMPORAL_WINDOW,
        layer_scale=cfg.STVIT.LAYER_SCALE_INIT,
        shortcut=cfg.STVIT.SHORTCUT,
    )


def _reaches(cfg: CfgNode, windows: Windows) -> Reaches:
    border = cfg.STVIT.BORDER

    def reach(side: int, *, recovers: bool) -> Reach:
        if not side:
            return Reach()
        assert windows.window is not None, "the rules ask for windows here"
        image, tokens = windows.window, windows.tokens
        queries, keys = (image, tokens) if recovers else (tokens, image)
        window = CentredWindow(side=side, queries=queries, keys=keys)
        if not border.startswith("released"):
            return CentredReach(window)
        return PaddedReach(
            window, image_window=image, recovers=recovers, penalty=border == "released"
        )

    sides = () if border == "move" else cfg.STVIT.KEY_WINDOWS
    return Reaches(
        generation=tuple(reach(side, recovers=False) for side in sides),
        recovery=reach(cfg.STVIT.RECOVERY_WINDOW, recovers=True),
    )


def _learned(windows: Windows, dim: int) -> SpatialPooling:
    return LearnedCenters(windows, dim=dim)


def _positioned(windows: Windows, dim: int, *, pooling: PoolingFactory) -> SpatialPooling:
    return PositionedPooling(pooling(windows, dim), dim=dim)


def _padded(windows: Windows, dim: int, *, pooling: PoolingFactory) -> SpatialPooling:
    return PaddedPooling(pooling(windows, dim))
