"""PyTorchVideo's models as dense baselines: its own modules, behind the interface of ours.

Letters: B clips, C channels, T frames, H rows, W columns of a video; t, h, w those of a map.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pytorchvideo.models import hub
from torch import Tensor, nn

from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry

from .layers.windows import Size

# Frames of the fast pathway for one of the slow pathway, in PyTorchVideo's SlowFast.
_ALPHA = 4
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
        """
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
        # From the first frame to the last, as PySlowFast does it: not quite every alpha-th. On
        # the CPU, because other devices may round a whole number down to the one before.
        slow = torch.linspace(0, frames - 1, frames // self.alpha, device="cpu").long()
        return [video.index_select(2, slow.to(video.device)), video]


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
    """Average over windows of the map's size in training.

    A larger map, of a larger crop in the test, is covered by several windows, one step apart:
    the head is then applied at each of them, as it was for the published accuracies. A smaller
    map has one window, which is cut to it.

    Args:
        window: (t, h, w).
    """

    def __init__(self, window: Size) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, t, h, w]`` to ``[B, C, t', h', w']``, which is 1 x 1 x 1 in training."""
        cut = [min(side, int(own)) for side, own in zip(self.window, x.shape[2:], strict=True)]
        return F.avg_pool3d(x, cut, stride=1)


def build_convolutional(
    name: str,
    *,
    temporal_strides: Sequence[int],
    num_frames: int,
    crop_size: int,
    drop_path: float = 0.0,
) -> PyTorchVideoModel:
    """Build a convolutional network, which takes clips of any size.

    Args:
        name: what PyTorchVideo's hub calls it.
        temporal_strides: of each pathway, frames of the video for one in front of the head.
        num_frames: frames of a training clip.
        crop_size: rows and columns of a training clip.
        drop_path: must be 0, as there is none.
    """
    assert drop_path == 0, "config/ refuses it"
    net = getattr(hub, name)()
    side = -(-crop_size // _SPATIAL_STRIDE)
    windows = [(-(-num_frames // stride), side, side) for stride in temporal_strides]
    # PyTorchVideo's own windows are those of the published training, and larger than the map of
    # a smaller clip.
    pools = [
        (parent, child_name)
        for parent in net.modules()
        for child_name, child in parent.named_children()
        if isinstance(child, nn.AvgPool3d)
    ]
    for (parent, child_name), window in zip(pools, windows, strict=True):
        setattr(parent, child_name, HeadPooling(window))
    inputs = SlowFastPathways(_ALPHA) if len(windows) == 2 else nn.Identity()
    head = net.blocks.pop(len(net.blocks) - 1)
    return PyTorchVideoModel(inputs=inputs, backbone=net, head=head)


def build_mvit(
    name: str, *, num_frames: int, crop_size: int, drop_path: float = 0.0
) -> PyTorchVideoModel:
    """Build a Multiscale Vision Transformer, which takes clips of one size.

    Args:
        name: what PyTorchVideo's hub calls it.
        num_frames: frames of every clip, a multiple of 2.
        crop_size: rows and columns of every clip, a multiple of 4.
        drop_path: stochastic depth rate of the last layer; it rises linearly from 0.
    """
    assert num_frames % 2 == 0 and crop_size % 4 == 0, "config/ refuses it"
    net = getattr(hub, name)(
        spatial_size=crop_size, temporal_size=num_frames, droppath_rate_block=drop_path
    )
    head, net.head = net.head, None
    inputs = OneSize((num_frames, crop_size, crop_size))
    return PyTorchVideoModel(inputs=inputs, backbone=net, head=head)


def set_head(head: nn.Module, *, num_classes: int, dropout: float, init_std: float) -> None:
    """Give a head of PyTorchVideo a new classifier, in place, and no activation.

    Args:
        head: maps features to scores.
        num_classes: classes.
        dropout: dropout rate before the classifier.
        init_std: standard deviation of the classifier's initial weights.
    """
    head.dropout = nn.Dropout(dropout)
    head.proj = nn.Linear(head.proj.in_features, num_classes)
    nn.init.normal_(head.proj.weight, std=init_std)
    nn.init.zeros_(head.proj.bias)
    # X3D has a softmax here, in training too; a loss and an ensemble want logits.
    head.activation = None


PTV_MODELS: Registry[Callable[..., PyTorchVideoModel]] = Registry(
    "model of PyTorchVideo (MODEL.MODEL_NAME)"
)
for _name, _strides in {
    "slow_r50": (1,),
    "slowfast_r50": (_ALPHA, 1),
    "x3d_s": (1,),
    "x3d_m": (1,),
    "csn_r101": (8,),
    "r2plus1d_r50": (4,),
}.items():
    PTV_MODELS.register(_name)(partial(build_convolutional, _name, temporal_strides=_strides))
PTV_MODELS.register("mvit_base_16x4")(partial(build_mvit, "mvit_base_16x4"))
