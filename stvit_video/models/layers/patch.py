"""From pixels to tokens, and from a stage of tokens to the next.

Letters: B batch, T frames, H rows, W columns, C channels; t, h, w the grid of patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A linear map of disjoint patches, then a norm if there is one.

    (ViT, section 3.1, without a norm; Video Swin Transformer, section 3.1, with one.)

    The weight is a convolution's, as in the released models, but is applied as one matrix
    product: patches do not overlap, and a matrix product is faster on every device.

    Args:
        patch: frames, rows and columns of a patch.
        in_channels: channels of the video.
        dim: channels C of a token.
        norm: of the tokens; None for none.
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
    """Two convolutions of stride 2 in the place of a patch embedding (released STViT-R).

    Each is followed by a batch norm and a Hardswish; the first has half of the channels. Frames
    are embedded one by one.

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
        # Channels last is what the convolutions are fastest in, and leaves tokens contiguous.
        x = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.hardswish(norm(conv(x)))
        return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbors into one token of twice the channels (Swin, section 3.1).

    Args:
        dim: channels C of the incoming tokens.
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
    """Takes the place of patch merging where tokens are semantic: the grid stays (STViT, 4.1).

    "A simple linear layer", without a norm; its initial weights keep the size of tokens. (With
    those of other layers, of standard deviation 0.02, tokens of 48 channels shrink to 0.14 of
    their size: training of ``configs/demo/stvit_swin_motion.yaml`` then stayed at chance for 7
    epochs, where it learns from the second on.)

    Args:
        dim: channels C of the incoming tokens; ``[..., C]`` becomes ``[..., 2C]``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 2 * dim)

    def reset_parameters(self) -> None:
        """Give new weights, which keep the size of tokens."""
        nn.init.trunc_normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


def _pad_to_multiple(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    missing = [-size % side for size, side in zip(video.shape[2:], patch, strict=True)]
    if not any(missing):
        return video
    return F.pad(video, (0, missing[2], 0, missing[1], 0, missing[0]))
