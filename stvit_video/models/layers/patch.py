"""Patch embedding, and downsampling between stages.

Notation: B batch, T frames, H rows, W columns, C channels; t h w grid of patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches, and an optional norm.

    ViT (section 3.1) has no norm, Video Swin Transformer (section 3.1) has one.

    The weight has the shape of a convolution, as in the released models, but is applied as a matrix
    product, which is faster on every device.

    Args:
        patch: frames, rows and columns of a patch.
        in_channels: channels of the video.
        dim: channels C of a token.
        norm: norm of the tokens; None for none.
    """

    def __init__(
        self,
        patch: tuple[int, int, int],
        *,
        in_channels: int = 3,
        dim: int,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=patch, stride=patch)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` of any size to a grid ``[B, t, h, w, C]``."""
        video = _pad_to_multiple(video, self.patch)
        pt, ph, pw = self.patch
        x = video.unflatten(4, (-1, pw)).unflatten(3, (-1, ph)).unflatten(2, (-1, pt))
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return self.norm(F.linear(x, self.proj.weight.flatten(1), self.proj.bias))


class ConvStem(nn.Module):
    """Patch embedding by two convolutions of stride 2 (released STViT-R).

    Each is followed by a batch norm and a Hardswish; the first has half the channels. Frames are
    embedded independently.

    Args:
        in_channels: channels of the video.
        dim: channels C of a token.
    """

    def __init__(self, *, in_channels: int = 3, dim: int) -> None:
        super().__init__()
        widths = ((in_channels, dim // 2), (dim // 2, dim))
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
            for before, after in widths
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after in widths)

    def forward(self, video: Tensor) -> Tensor:
        """Map a video ``[B, 3, T, H, W]`` to a grid ``[B, T, ceil(H/4), ceil(W/4), C]``."""
        batch = video.shape[0]
        # Convolutions are fastest in channels-last format, which also keeps tokens contiguous.
        x = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.hardswish(norm(conv(x)))
        return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))


class PatchMerging(nn.Module):
    """Merge 2 x 2 neighboring tokens into one of twice the channels (Swin, section 3.1).

    Args:
        dim: input channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]`` to ``[B, T, ceil(H/2), ceil(W/2), 2C]``."""
        height, width = x.shape[2:4]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class ChannelDoubling(nn.Linear):
    """Replacement of patch merging for semantic tokens, which keeps the grid (STViT, section 4.1).

    "A simple linear layer", without a norm, whose initial weights preserve the magnitude of tokens.
    (With the standard deviation of other layers, 0.02, tokens of 48 channels shrink to 0.14 of
    their magnitude: training of ``configs/demo/stvit_swin_motion.yaml`` then stayed at chance for
    7 epochs, instead of learning from the second on.)

    Maps ``[..., C]`` to ``[..., 2C]``.

    Args:
        dim: input channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 2 * dim)

    def reset_parameters(self) -> None:
        """Initialize weights that preserve the magnitude of tokens."""
        nn.init.trunc_normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


def _pad_to_multiple(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    padding = [-size % side for size, side in zip(video.shape[2:], patch, strict=True)]
    if not any(padding):
        return video
    return F.pad(video, (0, padding[2], 0, padding[1], 0, padding[0]))
