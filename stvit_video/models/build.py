"""From a config to a model."""

from collections.abc import Callable
from math import isqrt

from fvcore.common.config import CfgNode
from torch import nn

from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry

from .heads import ClassificationHead
from .layers.patch import PatchEmbed
from .ptv import PTV_MODELS, set_head
from .semantic.layout import parse_layout
from .semantic.pooling import AdaptiveAveragePooling, AdaptiveMaxPooling, IntraInterPooling
from .semantic.regions import Windows
from .semantic.stage import PoolingFactory, SemanticSpec
from .swin import Swin, swin_stages

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
    return MODELS.get(cfg.MODEL.ARCH)(cfg)


@MODELS.register("swin")
def build_swin(cfg: CfgNode) -> nn.Module:
    """Build a Swin Transformer, dense or (STVIT.ENABLE) with semantic tokens."""
    swin = cfg.SWIN
    final_dim = swin.EMBED_DIM << (len(swin.DEPTHS) - 1)
    stages = swin_stages(
        dim=swin.EMBED_DIM,
        depths=swin.DEPTHS,
        num_heads=swin.NUM_HEADS,
        window=swin.WINDOW_SIZE,
        mlp_ratio=swin.MLP_RATIO,
        drop_path=cfg.MODEL.DROPCONNECT_RATE,
        semantic=_semantic_spec(cfg) if cfg.STVIT.ENABLE else None,
    )
    for module in stages:
        module.apply(_init_linear)
    return Swin(
        patch_embed=PatchEmbed(swin.PATCH_SIZE, dim=swin.EMBED_DIM),
        stages=stages,
        norm=nn.LayerNorm(final_dim),
        head=ClassificationHead(
            final_dim,
            num_classes=cfg.MODEL.NUM_CLASSES,
            dropout=cfg.MODEL.DROPOUT_RATE,
            init_std=cfg.MODEL.FC_INIT_STD,
        ),
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


def _semantic_spec(cfg: CfgNode) -> SemanticSpec:
    stage, window = cfg.STVIT.STAGE - 1, cfg.SWIN.WINDOW_SIZE
    if window[1] != window[2]:
        raise UserError(
            f"Semantic tokens are generated in square windows, but SWIN.WINDOW_SIZE is {window}: "
            "make its rows and columns equal."
        )
    units = parse_layout(cfg.STVIT.LAYOUT, depth=cfg.SWIN.DEPTHS[stage])
    layers = sum(unit.depth for unit in units if unit.kind == "stgm")
    if layers != len(cfg.STVIT.KEY_WINDOWS):
        raise UserError(
            f"STVIT.KEY_WINDOWS has one side for each stgm layer of STVIT.LAYOUT ({layers}), but "
            f"is {cfg.STVIT.KEY_WINDOWS}: give it {layers} entries."
        )
    if cfg.STVIT.GLOBAL_CENTERS and layers < 2:
        raise UserError(
            "STVIT.GLOBAL_CENTERS are added in the second stgm layer, but STVIT.LAYOUT has one: "
            "set STVIT.GLOBAL_CENTERS False or write stgm 2."
        )
    return SemanticSpec(
        stage=stage,
        units=units,
        windows=Windows(window=window[1], tokens=isqrt(cfg.STVIT.NUM_TOKENS)),
        pooling=POOLINGS.get(cfg.STVIT.POOLING),
        key_windows=cfg.STVIT.KEY_WINDOWS,
        global_centers=cfg.STVIT.GLOBAL_CENTERS,
        temporal_window=cfg.STVIT.TEMPORAL_WINDOW,
        layer_scale=cfg.STVIT.LAYER_SCALE_INIT,
    )


def _init_linear(module: nn.Module) -> None:
    # As the released Swin models.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
