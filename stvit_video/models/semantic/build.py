"""Build the :class:`SemanticSpec` of a config."""

from collections.abc import Callable
from math import isqrt

from fvcore.common.config import CfgNode

from stvit_video.errors import UserError
from stvit_video.models.semantic.key_windows import Border, KeyWindows
from stvit_video.models.semantic.layout import parse_layout, restores_image_tokens
from stvit_video.models.semantic.pooling import (
    AveragePooling,
    IntraInterPooling,
    LearnedCenters,
    MaxPooling,
    PoolingRegions,
    SpatialPooling,
    new_centers,
)
from stvit_video.models.semantic.released import PaddedKeyWindows
from stvit_video.models.semantic.stage import SemanticSpec
from stvit_video.models.semantic.stgm import CentersRole

# STVIT.SEMANTIC_KEYS -> function of the number of generation layers that returns, for each layer,
# whether semantic tokens are keys.
_SEMANTIC_KEYS: dict[str, Callable[[int], tuple[bool, ...]]] = {
    "all": lambda layers: (True,) * layers,
    "later": lambda layers: (False,) + (True,) * (layers - 1),
    "none": lambda layers: (False,) * layers,
}


def swin_semantic_spec(cfg: CfgNode) -> SemanticSpec:
    """Build the specification of a Swin's semantic tokens.

    Raises:
        UserError: the config keys contradict each other.
    """
    stage, window = cfg.STVIT.STAGE - 1, cfg.SWIN.WINDOW_SIZE
    if window[1] != window[2]:
        raise UserError(
            f"Semantic tokens are generated in square windows, but SWIN.WINDOW_SIZE is {window}: "
            "make its rows and columns equal."
        )
    strides = [side << stage for side in cfg.SWIN.PATCH_SIZE[1:]]
    return _semantic_spec(
        cfg,
        stage=stage,
        window=window[1],
        strides=(strides[0], strides[1]),
        depth=cfg.SWIN.DEPTHS[stage],
        depth_key="SWIN.DEPTHS",
    )


def deit_semantic_spec(cfg: CfgNode) -> SemanticSpec:
    """Build the specification of a DeiT's semantic tokens.

    Raises:
        UserError: the config keys contradict each other.
    """
    rows, columns = cfg.DEIT.PATCH_SIZE
    return _semantic_spec(
        cfg,
        stage=0,
        window=None,
        strides=(rows, columns),
        depth=cfg.DEIT.DEPTH,
        depth_key="DEIT.DEPTH",
    )


def _semantic_spec(
    cfg: CfgNode,
    *,
    stage: int,
    window: int | None,
    strides: tuple[int, int],
    depth: int,
    depth_key: str,
) -> SemanticSpec:
    stvit = cfg.STVIT
    initial, *additional = stvit.INITIALIZATION.split("+")
    units = parse_layout(stvit.LAYOUT, depth=depth, depth_key=depth_key)
    depths = {unit.depth for unit in units if unit.kind == "stgm"}
    if len(depths) > 1:
        raise UserError(
            f"The stgm units of STVIT.LAYOUT {stvit.LAYOUT!r} have different numbers of "
            "layers: STVIT.KEY_WINDOWS applies to all of them, so give them the same number."
        )
    (layers,) = depths
    if layers != len(stvit.KEY_WINDOWS):
        raise UserError(
            f"STVIT.KEY_WINDOWS has one side for each layer of a stgm unit of STVIT.LAYOUT "
            f"({layers}), but is {stvit.KEY_WINDOWS}: give it {layers} entries."
        )
    generations = [unit.kind for unit in units].count("stgm")
    if stvit.REUSE_TOKENS and (generations < 2 or not restores_image_tokens(units)):
        raise UserError(
            "STVIT.REUSE_TOKENS gives the first semantic tokens to later dumbbell units, but "
            f"STVIT.LAYOUT {stvit.LAYOUT!r} is not several of them: write "
            '"3 x (base 1, stgm 2, semantic 2, recovery 1)", or set STVIT.REUSE_TOKENS False.'
        )
    regions = PoolingRegions(window=window, tokens=isqrt(stvit.NUM_TOKENS))
    size = cfg.DATA.TRAIN_CROP_SIZE
    grid = -(-size // strides[0]), -(-size // strides[1])
    centers_grid = grid
    if stvit.GLOBAL_WINDOWS:
        assert window is not None, "config validation requires windows here"
        centers_grid = stvit.GLOBAL_WINDOWS * window, stvit.GLOBAL_WINDOWS * window
    padded = stvit.BORDER.startswith("released")

    def pooling(dim: int) -> SpatialPooling:
        if initial == "global":
            centers = new_centers(regions, dim=dim, grid=centers_grid)
            return LearnedCenters(regions, centers=centers, padded=padded)
        if stvit.POOLING == "average":
            return AveragePooling(regions, padded=padded)
        if stvit.POOLING == "max":
            return MaxPooling(regions, padded=padded)
        return IntraInterPooling(regions, dim=dim, grid=grid, padded=padded)

    role: CentersRole = "queries"
    if "position" in additional:
        role = "keys"
    elif stvit.RELEASED_GLOBAL:
        role = "residual"
    return SemanticSpec(
        stage=stage,
        units=units,
        tokens=regions.tokens,
        pooling=pooling,
        key_windows=tuple(_key_windows(cfg, regions, side) for side in stvit.KEY_WINDOWS),
        semantic_keys=_SEMANTIC_KEYS[stvit.SEMANTIC_KEYS](layers),
        recovery_windows=_key_windows(cfg, regions, stvit.RECOVERY_WINDOW, recovers=True),
        global_centers=(
            (lambda dim: new_centers(regions, dim=dim, grid=centers_grid)) if additional else None
        ),
        centers_role=role,
        reuse_tokens=stvit.REUSE_TOKENS,
        temporal_window=stvit.TEMPORAL_WINDOW,
        cross_window=_cross_window(cfg, regions),
        layer_scale=stvit.LAYER_SCALE_INIT,
        shortcut=stvit.SHORTCUT,
    )


def _key_windows(
    cfg: CfgNode, regions: PoolingRegions, side: int, *, recovers: bool = False
) -> KeyWindows:
    if not side:
        return KeyWindows()
    assert regions.window is not None, "config validation requires windows here"
    image, tokens = regions.window, regions.tokens
    queries, keys = (image, tokens) if recovers else (tokens, image)
    if cfg.STVIT.BORDER.startswith("released"):
        return PaddedKeyWindows(
            side=side,
            queries=queries,
            keys=keys,
            image_window=image,
            recovers=recovers,
            penalized=cfg.STVIT.BORDER == "released",
        )
    border: Border = "clip" if recovers or cfg.STVIT.BORDER == "cut" else "inside"
    return KeyWindows(side=side, queries=queries, keys=keys, border=border)


def _cross_window(cfg: CfgNode, regions: PoolingRegions) -> KeyWindows | None:
    if not cfg.STVIT.CROSS_WINDOW:
        return None
    tokens = regions.tokens
    side = cfg.STVIT.CROSS_WINDOW * tokens
    return KeyWindows(side=side, queries=tokens, keys=tokens)
