"""PyTorchVideo's models as dense baselines, with the interface of this package's models.

Notation: B batch, C channels, T frames, H rows, W columns of a video, t h w size of a feature map,
K classes.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from pytorchvideo.models import hub
from torch import Tensor, nn

from stvit_video.errors import UserError
from stvit_video.models.layers.windows import Size
from stvit_video.runtime.registry import Registry

# Stride of the feature map in front of the head, in rows and columns of the video.
_SPATIAL_STRIDE = 32


class PyTorchVideoModel(nn.Module):
    """A PyTorchVideo model, split into backbone and head.

    Args:
        inputs: maps a video to the inputs of the backbone.
        backbone: maps the inputs to features.
        head: maps features to logits.
    """

    def __init__(self, *, inputs: nn.Module, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        self.backbone = backbone
        self.head = head

    def forward_features(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` to the features ``[B, C, t, h, w]`` of the head.

        SlowFast's features are already pooled. An MViT returns its tokens ``[B, 1 + t h w, C]``.

        Raises:
            UserError: the model cannot take the input.
        """
        if video.ndim != 5:
            # A 3D convolution would accept [3, 3, H, W] as a single video without a batch.
            raise UserError(
                "PyTorchVideo's models take videos [B, 3, T, H, W], not an input of shape "
                f"{list(video.shape)}."
            )
        return self.backbone(self.inputs(video))

    def forward(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` to logits ``[B, K]``."""
        return self.head(self.forward_features(video))


class SlowFastPathways(nn.Module):
    """The slow and fast inputs of a SlowFast network.

    Args:
        alpha: ratio of the frame rates of the fast and the slow pathway.
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, video: Tensor) -> list[Tensor]:
        """Map ``[B, 3, T, H, W]`` to slow ``[B, 3, T / alpha, H, W]`` and fast ``[B, 3, T, H, W]``.

        Raises:
            UserError: T is not a multiple of alpha.
        """
        frames = int(video.shape[2])
        if frames % self.alpha:
            raise UserError(
                f"SlowFast takes clips of a multiple of {self.alpha} frames, not {frames}."
            )
        return [video.index_select(2, _slow_frame_indices(frames, self.alpha, video.device)), video]


# Cached, because every copy to a GPU makes the CPU wait.
@torch.compiler.disable
@lru_cache(maxsize=64)
def _slow_frame_indices(frames: int, alpha: int, device: torch.device) -> Tensor:
    # As in PySlowFast, indices span the first to the last frame, so they are not exactly every
    # alpha-th. Computed on the CPU, because other devices may round an integer down to the next.
    with torch.inference_mode(False):
        return torch.linspace(0, frames - 1, frames // alpha, device="cpu").long().to(device)


class FixedSizeInput(nn.Module):
    """Check that videos have the size of a model's position embeddings.

    Args:
        size: (T, H, W).
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, video: Tensor) -> Tensor:
        """Map ``[B, 3, T, H, W]`` to ``[B, 3, T, H, W]``, unchanged.

        Raises:
            UserError: the video has another size.
        """
        size = tuple(int(side) for side in video.shape[2:])
        if size != self.size:
            expected, given = (" x ".join(map(str, sides)) for sides in (self.size, size))
            raise UserError(
                f"This model was built for clips of {expected} (DATA.NUM_FRAMES and "
                f"DATA.TRAIN_CROP_SIZE), the size of its position embeddings, not of {given}."
            )
        return video


class HeadPooling(nn.Module):
    """Average pooling over all frames and over a window of the size of the training feature map.

    The feature map of a larger test crop has several windows with a stride of 1, as for the
    published accuracies. The head is applied to each window, and PyTorchVideo averages the logits
    (PySlowFast their softmax). On a smaller feature map the window is reduced to its size.

    Args:
        window: (h, w).
    """

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, t, h, w]`` to ``[B, C, 1, h', w']``, with h' = w' = 1 in training."""
        frames, *sides = (int(side) for side in x.shape[2:])
        rows, columns = map(min, self.window, sides)
        return F.avg_pool3d(x, (frames, rows, columns), stride=1)


def build_convolutional(
    name: str, *, size: Size, drop_path: float = 0.0, inputs: nn.Module | None = None
) -> PyTorchVideoModel:
    """Build a convolutional network, which takes clips of any size.

    Args:
        name: name in PyTorchVideo's hub.
        size: (T, H, W) of a training clip.
        drop_path: must be 0, as these networks have no stochastic depth.
        inputs: maps a video to the inputs of the network; None if they are the video.
    """
    assert drop_path == 0, drop_path
    net = getattr(hub, name)()
    window = (ceil(size[1] / _SPATIAL_STRIDE), ceil(size[2] / _SPATIAL_STRIDE))
    # PyTorchVideo's own windows have the size of the published training clips.
    pools = [
        (parent, child_name)
        for parent in net.modules()
        for child_name, child in parent.named_children()
        if isinstance(child, nn.AvgPool3d)
    ]
    assert pools, name
    for parent, child_name in pools:
        setattr(parent, child_name, HeadPooling(window))
    head = net.blocks.pop(len(net.blocks) - 1)
    if inputs is None:
        inputs = nn.Identity()
    return PyTorchVideoModel(inputs=inputs, backbone=net, head=head)


def build_mvit(name: str, *, size: Size, drop_path: float = 0.0) -> PyTorchVideoModel:
    """Build a Multiscale Vision Transformer, which takes clips of one size.

    Args:
        name: name in PyTorchVideo's hub.
        size: (T, H, W) of every clip, multiples of (2, 4, 4).
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
    """
    frames, *sides = size
    net = getattr(hub, name)(
        spatial_size=tuple(sides), temporal_size=frames, droppath_rate_block=drop_path
    )
    head, net.head = net.head, None
    return PyTorchVideoModel(inputs=FixedSizeInput(size), backbone=net, head=head)


def reset_classifier(head: Any, *, num_classes: int, dropout: float, init_std: float) -> None:
    """Replace the classifier of a PyTorchVideo head in place, and remove its activation.

    Args:
        head: any of PyTorchVideo's heads, which all have the attributes set here.
        num_classes: number of classes K.
        dropout: dropout rate before the classifier.
        init_std: standard deviation of the classifier's initial weights.
    """
    head.dropout = nn.Dropout(dropout)
    head.proj = nn.Linear(head.proj.in_features, num_classes)
    nn.init.normal_(head.proj.weight, std=init_std)
    nn.init.zeros_(head.proj.bias)
    # X3D and R(2+1)D have a softmax here even in training, but the loss takes logits.
    head.activation = None


PTV_MODELS: Registry[Callable[..., PyTorchVideoModel]] = Registry(
    "model of PyTorchVideo (MODEL.MODEL_NAME)"
)
# X3D-S and X3D-M are the same network, for clips of different sizes.
for _name in ("slow_r50", "x3d_s", "x3d_m", "csn_r101", "r2plus1d_r50"):
    PTV_MODELS.register(_name)(partial(build_convolutional, _name))
PTV_MODELS.register("mvit_base_16x4")(partial(build_mvit, "mvit_base_16x4"))


@PTV_MODELS.register("slowfast_r50")
def build_slowfast(*, size: Size, drop_path: float = 0.0) -> PyTorchVideoModel:
    """Build SlowFast, for clips of a multiple of 4 frames; see :func:`build_convolutional`."""
    pathways = SlowFastPathways(alpha=4)
    return build_convolutional("slowfast_r50", size=size, drop_path=drop_path, inputs=pathways)
