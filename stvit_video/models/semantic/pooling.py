"""Initial cluster centers P by spatial pooling (paper, section 3.1, equations 4 and 5).

Notation: N frames, H W grid of image tokens, h w grid of semantic tokens, n m grid of learned
centers, C channels; a b rows and columns of the largest region, M regions or windows of all frames.
"""

from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import Grid, Span, grid_size


class PoolingRegions(NamedTuple):
    """Division of an axis of image tokens into windows, and of each window into pooled regions.

    Each region is pooled into one semantic token. Regions are those of adaptive pooling and may
    overlap: 7 tokens have the regions [0, 3), [2, 5) and [4, 7). If the last window is incomplete,
    regions without tokens are left out, so every semantic token has at least one image token.

    Attributes:
        window: side w of a window in image tokens; None for a single window over the axis.
        tokens: semantic tokens w_s along the axis of a window.
    """

    window: int | None
    tokens: int

    def window_side(self, size: int) -> int:
        """Return the side of a window on an axis of ``size`` tokens."""
        return size if self.window is None else self.window

    def window_spans(self, size: int) -> list[Span]:
        """Return the regions of one complete window on an axis of ``size`` tokens."""
        side, tokens = self.window_side(size), self.tokens
        return [Span(side * k // tokens, -(side * (k + 1) // -tokens)) for k in range(tokens)]

    def spans(self, size: int) -> list[Span]:
        """Return the regions of an axis of ``size`` tokens, one for each semantic token."""
        return [
            Span(origin + start, min(origin + stop, size))
            for origin in range(0, size, self.window_side(size))
            for start, stop in self.window_spans(size)
            if origin + start < size
        ]


class SpatialPooling(nn.Module):
    """Base class: pool each region of a grid into one initial cluster center.

    Args:
        regions: windows and regions along each axis.
        padded: zero-pad grids to complete windows and pool the zeros too (released STViT-R for
            detection).
    """

    def __init__(self, regions: PoolingRegions, *, padded: bool = False) -> None:
        super().__init__()
        self.regions = regions
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        raise NotImplementedError

    def pooled_grid(self, x: Tensor) -> Grid:
        """Return the rows and columns of ``[N, H, W, C]``, including padding that is pooled."""
        rows, columns = grid_size(x)
        if not self.padded:
            return rows, columns
        side = self.regions.window_side
        return rows + -rows % side(rows), columns + -columns % side(columns)

    def gather_regions(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gather the tokens of each region of ``[N, H, W, C]``.

        Returns:
            tokens ``[N, h, w, a, b, C]``, zero outside of smaller regions, and a bool mask of
            the tokens inside their region, ``[h, w, a, b]``; None if all are.
        """
        sizes = self.pooled_grid(x)
        rows, columns = (self.regions.spans(size) for size in sizes)
        height, width = (_largest_region(self.regions, size) for size in sizes)
        # Pad to the pooled grid, and further until the last regions are as large as the largest.
        have_rows, have_columns = grid_size(x)
        pad_rows = rows[-1].start + height - have_rows
        pad_columns = columns[-1].start + width - have_columns
        if pad_rows or pad_columns:
            x = F.pad(x, (0, 0, 0, pad_columns, 0, pad_rows))
        # Slices, because torch 2.11's inductor loses the gradients of an index here (on the CPU).
        x = torch.stack([x[:, start : start + height] for start, _ in rows], dim=1)
        tokens = torch.stack([x[:, :, :, start : start + width] for start, _ in columns], dim=2)
        if all(span.length == height for span in rows) and all(
            span.length == width for span in columns
        ):
            return tokens, None
        inside_rows, inside_columns = (
            torch.stack([torch.arange(length, device=x.device) < span.length for span in spans])
            for spans, length in ((rows, height), (columns, width))
        )
        inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]
        return tokens * inside[..., None], inside


class AveragePooling(SpatialPooling):
    """Non-parametric adaptive pooling: the mean of each region."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        tokens, inside = self.gather_regions(x)
        if inside is None:
            return tokens.mean((3, 4))
        return tokens.sum((3, 4)) / inside.sum((2, 3))[..., None]


class MaxPooling(SpatialPooling):
    """Maximum of each region, channel by channel (released STViT-R)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        tokens, inside = self.gather_regions(x)
        if inside is not None:
            tokens = tokens.masked_fill(~inside[..., None], float("-inf"))
        return tokens.amax((3, 4))


class IntraInterPooling(SpatialPooling):
    """Intra and inter-window spatial pooling (paper, section 3.1).

    Each region i has a mask M_i, predicted from its tokens X_w, and pools its tokens with it::

        M_i = f_intra(X_w) = Conv(GELU(LayerNorm(DepthwiseConv(X_w))))    (4)
        P^_i = Softmax(M_i) . X_w

    An offset O_i, predicted from the pooled tokens P^ of all regions of the window, revises the
    mask so that cluster centers differ from each other::

        O = f_inter(P^)
        P_i = Softmax(M_i + O_i) . X_w                                    (5)

    f_inter has the form of equation 4 with one output for each token of a region. The last
    convolution of both functions starts at zero, so an untrained module is adaptive average
    pooling. (f_intra needs no bias there, as the softmax cancels it.)

    On a grid of another size, regions may have another size: O is resized (bilinear) to the
    largest region, and smaller regions take its top left part.

    Args:
        regions: windows and regions along each axis.
        dim: channels C.
        grid: rows and columns of the training grid, in image tokens.
    """

    def __init__(
        self, regions: PoolingRegions, *, dim: int, grid: Grid, padded: bool = False
    ) -> None:
        super().__init__(regions, padded=padded)
        self.region_size = _largest_region(regions, grid[0]), _largest_region(regions, grid[1])
        self.intra = _MaskFunction(dim, outputs=1, bias=False)
        self.inter = _MaskFunction(dim, outputs=prod(self.region_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        tokens, inside = self.gather_regions(x)
        mask = self.intra(tokens.flatten(0, 2)).view(tokens.shape[:-1])  # equation 4
        pooled = _weighted_sum(mask, tokens, inside)
        mask = mask + self._offset(pooled, like=mask)
        return _weighted_sum(mask, tokens, inside)  # equation 5

    def _offset(self, pooled: Tensor, *, like: Tensor) -> Tensor:
        """Map pooled tokens P^ ``[N, h, w, C]`` to offsets O ``[N, h, w, a, b]``."""
        (height, width), side = grid_size(pooled), self.regions.tokens
        pad_rows, pad_columns = -height % side, -width % side
        if pad_rows or pad_columns:
            pooled = F.pad(pooled, (0, 0, 0, pad_columns, 0, pad_rows))
        windows = pooled.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        offset = self.inter(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        offset = offset.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        offset = offset.unflatten(3, self.region_size)
        if offset.shape != like.shape:
            resized = F.interpolate(offset.flatten(1, 2), size=like.shape[3:], mode="bilinear")
            offset = resized.view(like.shape)
        return offset


class _MaskFunction(nn.Module):
    """f_intra and f_inter: ``Conv(GELU(LayerNorm(DepthwiseConv(x))))`` (equation 4).

    Args:
        dim: channels C.
        outputs: output channels for each token.
        bias: whether the last convolution has a bias.
    """

    def __init__(self, dim: int, *, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pointwise = nn.Conv2d(dim, outputs, kernel_size=1, bias=bias)
        for parameter in self.pointwise.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[M, a, b, C]`` to ``[M, a, b, outputs]``."""
        x = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = F.gelu(self.norm(x))
        return self.pointwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _largest_region(regions: PoolingRegions, size: int) -> int:
    """Return the length of the largest region along an axis of ``size`` tokens."""
    return max(span.length for span in regions.window_spans(size))


def _weighted_sum(mask: Tensor, tokens: Tensor, inside: Tensor | None) -> Tensor:
    """Compute Softmax(M) . X_w for each region.

    Args:
        mask: logits M, ``[N, h, w, a, b]``.
        tokens: tokens X_w, ``[N, h, w, a, b, C]``.
        inside: mask of the tokens inside their region, ``[h, w, a, b]``; None if all are.

    Returns:
        cluster centers ``[N, h, w, C]``.
    """
    if inside is not None:
        mask = mask.masked_fill(~inside, float("-inf"))
    weights = mask.flatten(3).softmax(-1).to(tokens.dtype)
    # Autocast multiplies in half precision, but the residual stream must keep its precision.
    return (weights.unsqueeze(-2) @ tokens.flatten(3, 4)).squeeze(-2).to(tokens.dtype)


class LearnedCenters(SpatialPooling):
    """Learned initial centers, the same for every image (paper, Table 7, "global").

    Args:
        regions: windows and regions along each axis.
        centers: ``[n, m, C]``, see :func:`new_centers`.
    """

    def __init__(
        self, regions: PoolingRegions, *, centers: nn.Parameter, padded: bool = False
    ) -> None:
        super().__init__(regions, padded=padded)
        self.centers = centers

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]``, of which only the size matters, to ``[N, h, w, C]``."""
        height, width = (len(self.regions.spans(size)) for size in self.pooled_grid(x))
        return tile_centers(self.centers, (height, width)).expand(x.shape[0], -1, -1, -1)


def new_centers(regions: PoolingRegions, *, dim: int, grid: Grid) -> nn.Parameter:
    """Create learned cluster centers, one for each semantic token of the training grid.

    The training grid is rounded up to complete windows, so that centers repeat window by window
    over a larger grid.

    Args:
        regions: windows and regions along each axis.
        dim: channels C.
        grid: rows and columns of the training grid, in image tokens.

    Returns:
        ``[n, m, C]``, Gaussian noise (paper, section 3.1) of standard deviation 0.02, as in the
        released code.
    """
    rows, columns = (regions.tokens * -(-size // regions.window_side(size)) for size in grid)
    centers = nn.Parameter(torch.empty(rows, columns, dim))
    nn.init.normal_(centers, std=0.02)
    return centers


def tile_centers(centers: Tensor, size: Grid) -> Tensor:
    """Repeat learned centers ``[n, m, C]`` over a grid of semantic tokens ``[h, w, C]``."""
    if centers.shape[:2] == size:
        return centers
    (height, width), (rows, columns) = size, centers.shape[:2]
    return centers.repeat(-(-height // rows), -(-width // columns), 1)[:height, :width]
