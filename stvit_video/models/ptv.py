"""PyTorchVideo's models as dense baselines: its own modules, behind the interface of ours.

Letters: B clips, C channels, T frames, H rows, W columns of a video; t, h, w those of a map.
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

# Rows or columns of a video for one of the map in front of the head.
_SPATIAL_STRIDE = 32


class PyTorchVideoModel(nn.Module):
    """A model of PyTorchVideo, parted into its backbone and its head.

    Args:
        inputs: maps a video to what the backbone takes.
        backbone: maps that to the features that the head takes.
        head: maps the features to logits.
    """

    def __init__(self, *, inputs: nn.Module, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        self.backbone = backbone
        self.head = head

    def forward_features(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` to what the head takes.

        Returns:
            ``[B, C, t, h, w]``, which is pooled already in SlowFast; of an MViT all tokens
            ``[B, 1 + t h w, C]``.

        Raises:
            UserError: the model cannot take the input.
        """
        if video.ndim != 5:
            # A 3D convolution would take [3, 3, H, W] for a single video without a batch.
            raise UserError(
                "PyTorchVideo's models take videos [B, 3, T, H, W], not an input of shape "
                f"{list(video.shape)}."
            )
        return self.backbone(self.inputs(video))

    def forward(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` to logits ``[B, K]``."""
        return self.head(self.forward_features(video))


class SlowFastPathways(nn.Module):
    """The two inputs of a SlowFast network, both taken from one video.

    Args:
        alpha: frames of the fast pathway for one of the slow pathway.
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, video: Tensor) -> list[Tensor]:
        """Map ``[B, 3, T, H, W]`` to the slow ``[B, 3, T / alpha, H, W]`` and the fast, all of it.

        Raises:
            UserError: T is no multiple of alpha.
        """
        frames = int(video.shape[2])
        if frames % self.alpha:
            raise UserError(
                f"SlowFast takes clips of a multiple of {self.alpha} frames, not {frames}."
            )
        return [video.index_select(2, _slow_frames(frames, self.alpha, video.device)), video]


# As a GPU's copy of it, made anew, is waited for.
@torch.compiler.disable
@lru_cache(maxsize=64)
def _slow_frames(frames: int, alpha: int, device: torch.device) -> Tensor:
    # From the first frame to the last, as PySlowFast does it: not quite every alpha-th. On the CPU,
    # because other devices may round a whole number down to the one before.
    with torch.inference_mode(False):
        return torch.linspace(0, frames - 1, frames // alpha, device="cpu").long().to(device)


class OneSize(nn.Module):
    """Lets videos of one size pass: that of a model's position embeddings.

    Args:
        size: (T, H, W).
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, video: Tensor) -> Tensor:
        """Return ``[B, 3, T, H, W]`` as it is.

        Raises:
            UserError: the video is of another size.
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
    """Average over all frames and over windows of the rows and columns of the map in training.

    A larger map, of a larger crop in the test, is covered by several windows, one step apart, as
    it was for the published accuracies. The head is applied at each of them, and PyTorchVideo
    averages the logits there (PySlowFast their softmax). A smaller map has one window, cut to it.

    Args:
        window: (h, w).
    """

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, t, h, w]`` to ``[B, C, 1, h', w']``, which is 1 x 1 x 1 in training."""
        frames, *sides = (int(side) for side in x.shape[2:])
        rows, columns = map(min, self.window, sides)
        return F.avg_pool3d(x, (frames, rows, columns), stride=1)


def build_convolutional(
    name: str, *, size: Size, drop_path: float = 0.0, inputs: nn.Module | None = None
) -> PyTorchVideoModel:
    """Build a convolutional network, which takes clips of any size.

    Args:
        name: what PyTorchVideo's hub calls it.
        size: (T, H, W) of a clip in training.
        drop_path: must be 0, as there is none.
        inputs: maps a video to what the network takes; None for a network that takes a video.
    """
    assert drop_path == 0, drop_path
    net = getattr(hub, name)()
    window = (ceil(size[1] / _SPATIAL_STRIDE), ceil(size[2] / _SPATIAL_STRIDE))
    # PyTorchVideo's own windows have the size of the published training, whatever the clips are.
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
        name: what PyTorchVideo's hub calls it.
        size: (T, H, W) of every clip, multiples of (2, 4, 4).
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
    """
    frames, *sides = size
    net = getattr(hub, name)(
        spatial_size=tuple(sides), temporal_size=frames, droppath_rate_block=drop_path
    )
    head, net.head = net.head, None
    return PyTorchVideoModel(inputs=OneSize(size), backbone=net, head=head)


def set_head(head: Any, *, num_classes: int, dropout: float, init_std: float) -> None:
    """Give a head of PyTorchVideo a new classifier, in place, and no activation.

    Args:
        head: one of PyTorchVideo's heads, which all have the attributes set here.
        num_classes: classes.
        dropout: dropout rate before the classifier.
        init_std: standard deviation of the classifier's initial weights.
    """
    head.dropout = nn.Dropout(dropout)
    head.proj = nn.Linear(head.proj.in_features, num_classes)
    nn.init.normal_(head.proj.weight, std=init_std)
    nn.init.zeros_(head.proj.bias)
    # X3D and R(2+1)D have a softmax here, in training too; the loss takes logits.
    head.activation = None


PTV_MODELS: Registry[Callable[..., PyTorchVideoModel]] = Registry(
    "model of PyTorchVideo (MODEL.MODEL_NAME)"
)
# X3D-S and X3D-M are one network, for clips of different sizes.
for _name in ("slow_r50", "x3d_s", "x3d_m", "csn_r101", "r2plus1d_r50"):
    PTV_MODELS.register(_name)(partial(build_convolutional, _name))
PTV_MODELS.register("mvit_base_16x4")(partial(build_mvit, "mvit_base_16x4"))


@PTV_MODELS.register("slowfast_r50")
def build_slowfast(*, size: Size, drop_path: float = 0.0) -> PyTorchVideoModel:
    """Build SlowFast, for clips of a multiple of 4 frames; see :func:`build_convolutional`."""
    pathways = SlowFastPathways(alpha=4)
    return build_convolutional("slowfast_r50", size=size, drop_path=drop_path, inputs=pathways)
