"""Detect checkpoint formats, and convert their state dicts to this package's names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

# Buffers that are derived from the shape of a window.
_DERIVED_BUFFER = re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")
# Names in checkpoints from before the models followed the paper.
_OUTDATED_NAME = re.compile(
    r"\.pooling\.(mask|offset)\.|\.module\.layers\.\d+\.|\.downsample\.expansion\."
)
# Dense Swins have a single qkv projection.
_STVIT_R_KEY = re.compile(r"(backbone\.)?layers\.\d+\.blocks\.\d+\.attn\.kv\.weight")
# Prefix of the backbone's names in a detector.
BODY_PREFIX = "backbone.body."
# Norms and feature pyramid of an official detector. Its heads are not converted, because they were
# trained on regions pooled half a pixel away from torchvision's.
_OFFICIAL_DETECTOR = (
    (re.compile(r"backbone\.norm(\d)\."), r"backbone.norms.\1."),
    (re.compile(r"neck\.lateral_convs\.(\d)\.conv\."), r"fpn.inner_blocks.\1.0."),
    (re.compile(r"neck\.fpn_convs\.(\d)\.conv\."), r"fpn.layer_blocks.\1.0."),
)
_OFFICIAL_DETECTOR_NORM = "backbone.norm0.weight"


@dataclass(frozen=True)
class CheckpointFormat:
    """Checkpoint format.

    Attributes:
        name: name in the load report.
        renames: pairs (pattern, replacement), applied to each key in turn.
        convert: converts the renamed state dict, for formats whose values differ too.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def rename(self, key: str) -> str:
        """Return this package's name of a key."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


def _convert_stvit_r(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the projections of queries and of keys and values into one, as in a dense block."""
    converted = {}
    for key, value in state.items():
        if ".attn.q." in key:
            key_value = state[key.replace(".attn.q.", ".attn.kv.")]
            converted[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([value, key_value])
        elif key.endswith(".global_centers"):
            side = isqrt(value.shape[1])
            converted[key] = value.view(side, side, -1)
        elif ".attn.kv." not in key:
            converted[key] = value
    return converted


_HEAD = (r"^head\.(weight|bias)$", r"head.fc.\1")

STVIT_VIDEO = CheckpointFormat("stvit_video")
VIDEO_SWIN = CheckpointFormat(
    "official Video Swin",
    (
        (r"^backbone\.", ""),
        (r"^layers\.", "stages."),
        (r"^cls_head\.fc_cls\.", "head.fc."),
    ),
)
SWIN = CheckpointFormat("official Swin", ((r"^backbone\.", ""), (r"^layers\.", "stages."), _HEAD))
STVIT_R = CheckpointFormat(
    "released STViT-R",
    (
        *SWIN.renames,
        *(
            (rf"^patch_embed\.proj\.{2 * index}\.{old}\.", f"patch_embed.{new}.{index}.")
            for index in range(2)
            for old, new in (("c", "convs"), ("bn", "norms"))
        ),
        (r"\.layer_scale_([12])$", r".residual\1.scale.gamma"),
        # Only the first unit has global centers.
        (r"\.semantic_token2$", ".blocks.1.generation.module.global_centers"),
    ),
    _convert_stvit_r,
)
TIMM_SWIN = CheckpointFormat(
    "timm Swin",
    (
        # timm merges patches at the start of a stage instead of the end of the previous one.
        *(
            (rf"^layers\.{stage + 1}\.downsample\.", f"stages.{stage}.downsample.")
            for stage in range(3)
        ),
        (r"^layers\.", "stages."),
    ),
)
DEIT = CheckpointFormat(
    "official or timm DeiT",
    (
        (r"^pos_embed$", "position.table"),
        (r"^cls_token$", "position.class_token"),
        _HEAD,
    ),
)
TORCHVISION_SWIN3D = CheckpointFormat(
    "torchvision swin3d",
    (
        # torchvision numbers stages and patch mergings in one sequence.
        *((rf"^features\.{2 * stage}\.", f"stages.{stage}.blocks.") for stage in range(4)),
        *((rf"^features\.{2 * stage + 1}\.", f"stages.{stage}.downsample.") for stage in range(3)),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
        _HEAD,
    ),
)
# The last of PyTorchVideo's blocks is the head: block 5, in SlowFast block 6.
PYTORCHVIDEO = CheckpointFormat(
    "PyTorchVideo", ((r"^blocks\.[56]\.", "head."), (r"^blocks\.", "backbone.blocks."))
)
PYTORCHVIDEO_MVIT = CheckpointFormat("PyTorchVideo MViT", ((r"^(?!head\.)", "backbone."),))


def detect_format(state: Mapping[str, Tensor]) -> CheckpointFormat | None:
    """Detect the format of a state dict from its keys; None if it is unknown."""
    keys = state.keys()
    own_prefixes = ("stages.", "position.", "backbone.blocks.", "backbone.body.")
    if any(key.startswith(own_prefixes) for key in keys):
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
    """Return whether a stvit_video checkpoint is from before the models followed the paper."""
    return any(_OUTDATED_NAME.search(key) for key in state)


def convert_state_dict(state: Mapping[str, Tensor], format_: CheckpointFormat) -> dict[str, Tensor]:
    """Convert a state dict to this package's names, without derived buffers."""
    renamed = {
        format_.rename(key): value
        for key, value in state.items()
        if not _DERIVED_BUFFER.search(key)
    }
    return renamed if format_.convert is None else format_.convert(renamed)


def convert_detector_state_dict(
    state: Mapping[str, Tensor], format_: CheckpointFormat
) -> dict[str, Tensor]:
    """Convert a state dict to the names of a :class:`~.detector.CascadeMaskRCNN`.

    Args:
        state: a stvit_video detector; a classifier, which becomes the backbone; or an official
            detector, whose backbone, norms and feature pyramid are converted.
        format_: format of the backbone's names.
    """
    if any(key.startswith(BODY_PREFIX) for key in state):
        return dict(state)
    converted, body = {}, {}
    for key, value in state.items():
        matches = [(pattern, name) for pattern, name in _OFFICIAL_DETECTOR if pattern.match(key)]
        if matches:
            ((pattern, name),) = matches
            converted[pattern.sub(name, key)] = value
        elif _OFFICIAL_DETECTOR_NORM in state and not key.startswith("backbone."):
            converted[key] = value  # a weight of a head
        else:
            body[key] = value
    for name, value in convert_state_dict(body, format_).items():
        converted[BODY_PREFIX + name] = value
    return converted
