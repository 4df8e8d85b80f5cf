"""Build a model from a config.

Notation: B batch, T frames, H rows, W columns, K = MODEL.NUM_CLASSES.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.models.deit import Deit, deit_blocks
from stvit_video.models.detection.build import build_cascade
from stvit_video.models.heads import ClassificationHead, ClassTokenHead
from stvit_video.models.layers.block import BlockSpec, CheckpointedSequential
from stvit_video.models.layers.patch import ChannelDoubling, ConvStem, PatchEmbed
from stvit_video.models.layers.position import PositionEmbedding
from stvit_video.models.ptv import PTV_MODELS, reset_classifier
from stvit_video.models.semantic.build import deit_semantic_spec, swin_semantic_spec
from stvit_video.models.swin import Swin, swin_stages
from stvit_video.runtime.registry import Registry

# Epsilon of the published DeiT; Swin has torch's default of 1e-5.
_DEIT_NORM_EPS = 1e-6

MODELS: Registry[Callable[[CfgNode], nn.Module]] = Registry("model (MODEL.ARCH)")


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a config, with initial weights.

    Returns:
        a module that maps a video ``[B, 3, T, H, W]`` (or an image ``[B, 3, H, W]``) to logits
        ``[B, K]``; for detection see :func:`build_cascade_mask_rcnn`.

    Raises:
        UserError: the config does not describe a model.
    """
    model = MODELS.get(cfg.MODEL.ARCH)(cfg)
    if cfg.MODEL.PARAM_DTYPE != "float32":
        _cast_parameters(model, getattr(torch, cfg.MODEL.PARAM_DTYPE))
    return model


@MODELS.register("swin")
def build_swin(cfg: CfgNode) -> nn.Module:
    """Build a Swin Transformer, dense or (STVIT.ENABLE) with semantic tokens.

    Raises:
        UserError: the config keys of the semantic tokens contradict each other.
    """
    swin = cfg.SWIN
    final_dim = swin.EMBED_DIM << (len(swin.DEPTHS) - 1)
    semantic = swin_semantic_spec(cfg) if cfg.STVIT.ENABLE else None
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
    """Build a Cascade Mask R-CNN on a Swin, for images and their sizes instead of videos.

    Raises:
        UserError: the config keys of the semantic tokens contradict each other.
    """
    body = build_swin(cfg)
    # Detection does not use them, so they would never be trained.
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
        UserError: the config keys of the semantic tokens contradict each other.
    """
    deit = cfg.DEIT
    size = cfg.DATA.TRAIN_CROP_SIZE
    norm_layer = partial(nn.LayerNorm, eps=_DEIT_NORM_EPS)
    rows, columns = deit.PATCH_SIZE
    blocks = deit_blocks(
        BlockSpec(deit.EMBED_DIM, deit.NUM_HEADS, deit.MLP_RATIO, norm_layer),
        depth=deit.DEPTH,
        drop_path=cfg.MODEL.DROPCONNECT_RATE,
        semantic=deit_semantic_spec(cfg) if cfg.STVIT.ENABLE else None,
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
    """Build the PyTorchVideo model MODEL.MODEL_NAME, which takes videos but no images."""
    side = cfg.DATA.TRAIN_CROP_SIZE
    model = PTV_MODELS.get(cfg.MODEL.MODEL_NAME)(
        size=(cfg.DATA.NUM_FRAMES, side, side), drop_path=cfg.MODEL.DROPCONNECT_RATE
    )
    reset_classifier(
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


def _init_linear(module: nn.Module) -> None:
    # As in the released Swin and DeiT.
    if isinstance(module, nn.Linear) and not isinstance(module, ChannelDoubling):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert a model to ``dtype``, and let it convert its inputs and outputs.

    Inputs are converted to the current dtype of the parameters, so a copy of the model in another
    dtype works too. Logits are converted to float32, for losses and scores.
    """
    model.to(dtype)
    model.register_forward_pre_hook(_convert_inputs)
    model.register_forward_hook(_convert_logits)


def _convert_inputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = next(model.parameters()).dtype
    return tuple(value.to(dtype) for value in inputs)


def _convert_logits(model: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return logits.float()
