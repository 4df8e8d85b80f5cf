"""Checkpoint formats of the field: how to tell them apart, and what their names are here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

# Buffers that follow from the shape of a window and are no weights.
_DERIVED = re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")
# What only files from before the models followed the paper have.
_BEFORE_THE_PAPER = re.compile(
    r"\.pooling\.(mask|offset)\.|\.module\.layers\.\d+\.|\.downsample\.expansion\."
)
# Dense Swins have one projection of all three.
_STVIT_R_KEY = re.compile(r"(backbone\.)?layers\.\d+\.blocks\.\d+\.attn\.kv\.weight")


@dataclass(frozen=True)
class Format:
    """A family of checkpoint files.

    Attributes:
        name: what the load report calls it.
        renames: pairs (pattern, replacement), applied to a key in turn.
        convert: changes the values of the renamed keys, where names alone do not do it.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def rename(self, key: str) -> str:
        """Give our name of a key."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


def _from_stvit_r(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the separate projections of queries and of keys and values, as in a dense block."""
    joined = {}
    for key, value in state.items():
        if ".attn.q." in key:
            key_value = state[key.replace(".attn.q.", ".attn.kv.")]
            joined[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([value, key_value])
        elif key.endswith(".global_centers"):
            side = isqrt(value.shape[1])
            joined[key] = value.view(side, side, -1)
        elif ".attn.kv." not in key:
            joined[key] = value
    return joined


_HEAD = (r"^head\.(weight|bias)$", r"head.fc.\1")

STVIT_VIDEO = Format("stvit_video")
VIDEO_SWIN = Format(
    "official Video Swin",
    (
        (r"^backbone\.", ""),
        (r"^layers\.", "stages."),
        (r"^cls_head\.fc_cls\.", "head.fc."),
    ),
)
SWIN = Format("official Swin", ((r"^backbone\.", ""), (r"^layers\.", "stages."), _HEAD))
STVIT_R = Format(
    "released STViT-R",
    (
        *SWIN.renames,
        *(
            (rf"^patch_embed\.proj\.{2 * index}\.{theirs}\.", f"patch_embed.{ours}.{index}.")
            for index in range(2)
            for theirs, ours in (("c", "convs"), ("bn", "norms"))
        ),
        (r"\.layer_scale_([12])$", r".residual\1.scale.gamma"),
        # One layer in each of its units generates tokens; the centers are the first one's.
        (r"\.semantic_token2$", ".blocks.1.generation.module.global_centers"),
    ),
    _from_stvit_r,
)
TIMM_SWIN = Format(
    "timm Swin",
    (
        # timm merges patches at the start of a stage, not at the end of the one before.
        *(
            (rf"^layers\.{stage + 1}\.downsample\.", f"stages.{stage}.downsample.")
            for stage in range(3)
        ),
        (r"^layers\.", "stages."),
    ),
)
DEIT = Format(
    "official or timm DeiT",
    (
        (r"^pos_embed$", "position.table"),
        (r"^cls_token$", "position.class_token"),
        _HEAD,
    ),
)
TORCHVISION_SWIN3D = Format(
    "torchvision swin3d",
    (
        # torchvision counts stages and mergings in one sequence.
        *((rf"^features\.{2 * stage}\.", f"stages.{stage}.blocks.") for stage in range(4)),
        *((rf"^features\.{2 * stage + 1}\.", f"stages.{stage}.downsample.") for stage in range(3)),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
        _HEAD,
    ),
)
# The last of PyTorchVideo's blocks is the head: the sixth, in SlowFast the seventh.
PYTORCHVIDEO = Format(
    "PyTorchVideo", ((r"^blocks\.[56]\.", "head."), (r"^blocks\.", "backbone.blocks."))
)
PYTORCHVIDEO_MVIT = Format("PyTorchVideo MViT", ((r"^(?!head\.)", "backbone."),))


def detect_format(state: Mapping[str, Tensor]) -> Format | None:
    """Tell the format of a state dict by its keys, or give None."""
    keys = state.keys()
    ours = ("stages.", "position.", "backbone.blocks.", "backbone.body.")
    if any(key.startswith(ours) for key in keys):
        return STVIT_VIDEO
    if {"pos_embed", "cls_token", "blocks.0.attn.qkv.weight"} <= keys:
        return DEIT
    if "cls_positional_encoding.cls_token" in keys:
        return PYTORCHVIDEO_MVIT
    if all(key.startswith("blocks.") for key in keys):
        return PYTORCHVIDEO
    if any(key.startswith("features.0.0.attn.") for key in keys):
        return TORCHVISION_SWIN3D
    if not any(re.match(r"(backbone\.)?layers\.\d+\.blocks\.", key) for key in keys):
        return None
    if any(_STVIT_R_KEY.fullmatch(key) for key in keys):
        return STVIT_R
    patch = state.get("backbone.patch_embed.proj.weight", state.get("patch_embed.proj.weight"))
    if patch is not None and patch.ndim == 5:
        return VIDEO_SWIN
    if any(key.startswith("layers.3.downsample.") for key in keys):
        return TIMM_SWIN
    return SWIN


def is_outdated(state: Mapping[str, Tensor]) -> bool:
    """Say whether a file of ours has semantic tokens that were not yet those of the paper."""
    return any(_BEFORE_THE_PAPER.search(key) for key in state)


def to_our_names(state: Mapping[str, Tensor], format_: Format) -> dict[str, Tensor]:
    """Rename the keys of a state dict and leave out what is no weight."""
    renamed = {
        format_.rename(key): value for key, value in state.items() if not _DERIVED.search(key)
    }
    return renamed if format_.convert is None else format_.convert(renamed)


# In front of the names of a detector's backbone.
BODY = "backbone.body."

# The official feature pyramid. Its heads are not taken: they were trained on regions that were
# pooled half a pixel away from torchvision's.
_OFFICIAL = (
    (re.compile(r"backbone\.norm(\d)\."), r"backbone.norms.\1."),
    (re.compile(r"neck\.lateral_convs\.(\d)\.conv\."), r"fpn.inner_blocks.\1.0."),
    (re.compile(r"neck\.fpn_convs\.(\d)\.conv\."), r"fpn.layer_blocks.\1.0."),
)
_OFFICIAL_NORM = "backbone.norm0.weight"


def to_detector_names(state: Mapping[str, Tensor], format_: Format) -> dict[str, Tensor]:
    """Rename the keys of a state dict to those of a :class:`~.detector.CascadeMaskRCNN`.

    Args:
        state: of a detector of ours, of a classifier, which becomes the backbone, or of an
            official detector, of which backbone, its norms and the feature pyramid get our names.
        format_: of the file, for the names inside the backbone.
    """
    if any(key.startswith(BODY) for key in state):
        return dict(state)
    around, body = {}, {}
    for key, value in state.items():
        found = [(pattern, name) for pattern, name in _OFFICIAL if pattern.match(key)]
        if found:
            ((pattern, name),) = found
            around[pattern.sub(name, key)] = value
        elif _OFFICIAL_NORM in state and not key.startswith("backbone."):
            around[key] = value  # of a head
        else:
            body[key] = value
    renamed = to_our_names(body, format_)
    return {**around, **{BODY + name: value for name, value in renamed.items()}}
