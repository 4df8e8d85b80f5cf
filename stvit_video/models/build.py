"""From a config to a model."""

from collections.abc import Callable
from functools import partial
from math import isqrt

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry

from .deit import Deit, deit_blocks
from .detection.build import build_cascade
from .heads import ClassificationHead, ClassTokenHead
from .layers.checkpointed import CheckpointedSequential
from .layers.patch import ConvStem, PatchEmbed
from .layers.position import PositionEmbedding
from .layers.window_block import BlockSpec
from .parameters import keep_parameters_in
from .ptv import PTV_MODELS, set_head
from .semantic.centers import LearnedCenters, PositionedPooling
from .semantic.layout import parse_layout
from .semantic.pooling import (
    AdaptiveAveragePooling,
    AdaptiveMaxPooling,
    IntraInterPooling,
    SpatialPooling,
)
from .semantic.reach import CentredReach, CentredWindow, Reach
from .semantic.regions import Windows
from .semantic.released import PaddedPooling, PaddedReach
from .semantic.stage import PoolingFactory, Reaches, SemanticSpec
from .swin import Swin, swin_stages

# Of the published DeiT; Swin has torch's 1e-5.
_DEIT_NORM_EPS = 1e-6

# STVIT.SEMANTIC_KEYS: number of generation layers -> whether each has semantic tokens as keys.
_SEMANTIC_KEYS: dict[str, Callable[[int], tuple[bool, ...]]] = {
    "all": lambda layers: (True,) * layers,
    "later": lambda layers: (False,) + (True,) * (layers - 1),
    "none": lambda layers: (False,) * layers,
}

MODELS: Registry[Callable[[CfgNode], nn.Module]] = Registry("model (MODEL.ARCH)")

POOLINGS: Registry[PoolingFactory] = Registry("pooling (STVIT.POOLING)")
POOLINGS.register("average")(lambda windows, dim: AdaptiveAveragePooling(windows))
POOLINGS.register("max")(lambda windows, dim: AdaptiveMaxPooling(windows))
POOLINGS.register("intra_inter")(lambda windows, dim: IntraInterPooling(windows, dim=dim))


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a config, with its initial weights.

    Returns:
        a module from a video ``[B, 3, T, H, W]`` (or an image ``[B, 3, H, W]``) to logits
        ``[B, MODEL.NUM_CLASSES]``.

    Raises:
        UserError: the config does not describe a model.
    """
    model = MODELS.get(cfg.MODEL.ARCH)(cfg)
    if cfg.MODEL.PARAM_DTYPE != "float32":
        keep_parameters_in(model, getattr(torch, cfg.MODEL.PARAM_DTYPE))
    return model


@MODELS.register("swin")
def build_swin(cfg: CfgNode) -> nn.Module:
    """Build a Swin Transformer, dense or (STVIT.ENABLE) with semantic tokens.

    Raises:
        UserError: the keys of its semantic tokens do not fit together.
    """
    swin = cfg.SWIN
    final_dim = swin.EMBED_DIM << (len(swin.DEPTHS) - 1)
    semantic = _swin_semantic(cfg) if cfg.STVIT.ENABLE else None
    stages = swin_stages(
        dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window=swin.WINDOW_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        drop_path=cfg.MODEL.DROPCONNECT_RATE,
        cut_windows=swin.CUT_WINDOWS,
        semantic=semantic,
        sequence=_sequence(cfg),
    )
    for module in stages:
        module.apply(_init_linear)
    patch_embed: nn.Module
    if swin.STEM == "conv":
        patch_embed = ConvStem(dim=swin.EMBED_DIM)
    else:
        norm = nn.LayerNorm(swin.EMBED_DIM)
        patch_embed = PatchEmbed(swin.PATCH_SIZE, dim=swin.EMBED_DIM, norm=norm)
    return Swin(
        patch_embed=patch_embed,
        stages=stages,
        norm=nn.LayerNorm(final_dim),
        head=_head(cfg, final_dim, ClassificationHead),
        is_pyramid=semantic is None or not semantic.ends_semantic(semantic.stage),
    )


@MODELS.register("cascade_mask_rcnn")
def build_cascade_mask_rcnn(cfg: CfgNode) -> nn.Module:
    """Build a Cascade Mask R-CNN on a Swin; it takes images with their sizes, not videos.

    Raises:
        UserError: the keys of its semantic tokens do not fit together.
    """
    body = build_swin(cfg)
    # Nothing would train them.
    body.norm, body.head = nn.Identity(), nn.Identity()
    stages = range(len(cfg.SWIN.DEPTHS))
    return build_cascade(
        cfg,
        body,
        channels=[cfg.SWIN.EMBED_DIM << stage for stage in stages],
        strides=[cfg.SWIN.PATCH_SIZE[1] << stage for stage in stages],
    )


@MODELS.register("deit")
def build_deit(cfg: CfgNode) -> nn.Module:
    """Build a DeiT, dense or (STVIT.ENABLE) with semantic tokens.

    Raises:
        UserError: the keys of its semantic tokens do not fit together.
    """
    deit = cfg.DEIT
    size = cfg.DATA.TRAIN_CROP_SIZE
    norm_layer = partial(nn.LayerNorm, eps=_DEIT_NORM_EPS)
    rows, columns = deit.PATCH_SIZE
    blocks = deit_blocks(
        BlockSpec(deit.EMBED_DIM, deit.NUM_HEADS, deit.MLP_RATIO, norm_layer),
        depth=deit.DEPTH,
        drop_path=cfg.MODEL.DROPCONNECT_RATE,
        semantic=_deit_semantic(cfg) if cfg.STVIT.ENABLE else None,
        sequence=_sequence(cfg),
    )
    blocks.apply(_init_linear)
    return Deit(
        patch_embed=PatchEmbed((1, rows, columns), dim=deit.EMBED_DIM),
        position=PositionEmbedding(
            (-(-size // rows), -(-size // columns)),
            dim=deit.EMBED_DIM,
            class_token=deit.CLASS_TOKEN,
        ),
        blocks=blocks,
        norm=norm_layer(deit.EMBED_DIM),
        head=_head(cfg, deit.EMBED_DIM, ClassTokenHead if deit.CLASS_TOKEN else ClassificationHead),
    )


@MODELS.register("ptv")
def build_ptv(cfg: CfgNode) -> nn.Module:
    """Build MODEL.MODEL_NAME, one of PyTorchVideo's models; it takes videos alone, no images."""
    side = cfg.DATA.TRAIN_CROP_SIZE
    model = PTV_MODELS.get(cfg.MODEL.MODEL_NAME)(
        size=(cfg.DATA.NUM_FRAMES, side, side), drop_path=cfg.MODEL.DROPCONNECT_RATE
    )
    set_head(
        model.head,
        num_classes=cfg.MODEL.NUM_CLASSES,
        dropout=cfg.MODEL.DROPOUT_RATE,
        init_std=cfg.MODEL.FC_INIT_STD,
    )
    return model


def _sequence(cfg: CfgNode) -> type[nn.Sequential]:
    return CheckpointedSequential if cfg.MODEL.ACT_CHECKPOINT else nn.Sequential


def _head(cfg: CfgNode, dim: int, kind: type[ClassificationHead]) -> ClassificationHead:
    return kind(
        dim,
        num_classes=cfg.MODEL.NUM_CLASSES,
        dropout=cfg.MODEL.DROPOUT_RATE,
        init_std=cfg.MODEL.FC_INIT_STD,
    )


def _swin_semantic(cfg: CfgNode) -> SemanticSpec:
    stage, window = cfg.STVIT.STAGE - 1, cfg.SWIN.WINDOW_SIZE
    if window[1] != window[2]:
        raise UserError(
            f"Semantic tokens are generated in square windows, but SWIN.WINDOW_SIZE is {window}: "
            "make its rows and columns equal."
        )
    return _semantic_spec(
        cfg, stage=stage, window=window[1], depth=cfg.SWIN.DEPTHS[stage], depth_key="SWIN.DEPTHS"
    )


def _deit_semantic(cfg: CfgNode) -> SemanticSpec:
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
    pooling = POOLINGS.get(cfg.STVIT.POOLING)
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


def _init_linear(module: nn.Module) -> None:
    # As the released Swin and DeiT models.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
