"""Initial cluster centres by pooling image tokens in space (paper, section 3.1).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..layers.in_place import gelu
from .regions import Windows


class SpatialPooling(nn.Module):
    """Pools each region of a grid into one initial cluster centre.

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
    """

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        raise NotImplementedError


class AdaptiveAveragePooling(SpatialPooling):
    """The mean of each region."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        return _reduce_regions(x, self.windows, torch.mean)


class AdaptiveMaxPooling(SpatialPooling):
    """The maximum of each region, channel by channel (as the released STViT-R)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        return _reduce_regions(x, self.windows, torch.amax)


class IntraInterPooling(SpatialPooling):
    """Intra and inter-window spatial pooling (paper, section 3.1, equations 4 and 5).

    Intra-window: a mask, predicted from the image tokens, weighs the tokens of each region, so
    that a centre is representative of its region. Inter-window: an offset, predicted from the
    centres of neighbouring regions and windows, moves each region, so that centres differ from
    each other. Both predictors are ``Conv(GELU(LayerNorm(DWConv(x))))``.

    The paper leaves open how an offset acts on a grid of tokens. Here a moved region weighs a
    token by the share of its cell that it covers, which is bilinear sampling of the region and
    needs one matrix product. Offsets stay within half a region, so no region loses its tokens.
    Both predictors start at zero: an untrained module is adaptive average pooling.

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
        dim: channels C.
    """

    def __init__(self, windows: Windows, *, dim: int) -> None:
        super().__init__(windows)
        # A constant cancels in a weighted mean.
        self.mask = _Predictor(dim, outputs=1, bias=False)
        self.offset = _Predictor(dim, outputs=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        height, width = x.shape[1:3]
        rows = _bounds(tuple(self.windows.regions(height)), x)
        columns = _bounds(tuple(self.windows.regions(width)), x)
        weights = _bounded_exp(self.mask(x)).squeeze(-1)  # [N, H, W]
        row_cover = _coverage(rows, height)  # [h, H]
        column_cover = _coverage(columns, width)  # [w, W]
        centers = _pool_boxes(x, weights, row_cover, column_cover)
        offset = torch.tanh(_at_least_float32(self.offset(centers)))
        row_shift = offset[..., 0] * _half_sizes(rows)[:, None]  # [N, h, w]
        column_shift = offset[..., 1] * _half_sizes(columns)
        row_cover = _coverage(rows[:, None] + row_shift[..., None], height)
        column_cover = _coverage(columns + column_shift[..., None], width)
        return _pool(x, weights, row_cover, column_cover)


def _reduce_regions(x: Tensor, windows: Windows, reduce: Callable[..., Tensor]) -> Tensor:
    # Regions are boxes, so rows and columns are reduced one after the other.
    for axis in (1, 2):
        regions = windows.regions(x.shape[axis])
        pieces = [reduce(x.narrow(axis, start, stop - start), dim=axis) for start, stop in regions]
        x = torch.stack(pieces, dim=axis)
    return x


class _Predictor(nn.Module):
    """``Conv(GELU(LayerNorm(DWConv(x))))`` on grids ``[N, H, W, C]``, zero at the start."""

    def __init__(self, dim: int, *, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.pointwise = nn.Conv2d(dim, outputs, kernel_size=1, bias=bias)
        for parameter in self.pointwise.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = gelu(self.norm(x))
        return self.pointwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _bounded_exp(logits: Tensor, *, bound: float = 20.0) -> Tensor:
    # A softmax over overlapping regions: bounded, so that no region's weights all vanish.
    return torch.exp(bound * torch.tanh(_at_least_float32(logits) / bound))


def _bounds(regions: tuple[tuple[int, int], ...], like: Tensor) -> Tensor:
    return _region_bounds(regions, torch.promote_types(like.dtype, torch.float32), like.device)


# A compiled graph would make it anew each time; and a GPU's copy of it, made anew, is waited for.
@torch.compiler.disable
@lru_cache(maxsize=64)
def _region_bounds(
    regions: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Give the first token of each region and the one after the last, ``[regions, 2]``."""
    # A tensor made inside inference_mode must serve training later.
    with torch.inference_mode(False):
        return torch.tensor(regions, dtype=dtype, device=device)


def _half_sizes(bounds: Tensor) -> Tensor:
    return (bounds[..., 1] - bounds[..., 0]) / 2


def _coverage(bounds: Tensor, size: int) -> Tensor:
    """Give the share of each of ``size`` cells that ranges ``[..., 2]`` cover: ``[..., size]``."""
    cells = torch.arange(size, dtype=bounds.dtype, device=bounds.device)
    start, stop = bounds[..., :1], bounds[..., 1:]
    return (torch.minimum(cells + 1, stop) - torch.maximum(cells, start)).clamp(0, 1)


def _pool_boxes(x: Tensor, weights: Tensor, row_cover: Tensor, column_cover: Tensor) -> Tensor:
    """Do what :func:`_pool` does for regions that form a grid, axis after axis.

    Args:
        x: tokens ``[N, H, W, C]``.
        weights: of the tokens, ``[N, H, W]``.
        row_cover: ``[h, H]``.
        column_cover: ``[w, W]``.

    Returns:
        centres ``[N, h, w, C]``.
    """
    # Shares are formed before each product, which float16 may be used for: weights overflow it.
    cover = row_cover[:, :, None] * weights[:, None]  # [N, h, H, W]
    sums = cover.sum(2, keepdim=True)  # [N, h, 1, W]
    x = torch.einsum("nhHW,nHWc->nhWc", (cover / sums).to(x.dtype), x)
    cover = column_cover * sums  # [N, h, w, W]
    cover = cover / cover.sum(-1, keepdim=True)
    return torch.einsum("nhwW,nhWc->nhwc", cover.to(x.dtype), x)


def _pool(x: Tensor, weights: Tensor, row_cover: Tensor, column_cover: Tensor) -> Tensor:
    """Average tokens by weight and coverage.

    Args:
        x: tokens ``[N, H, W, C]``.
        weights: of the tokens, ``[N, H, W]``.
        row_cover: of each region, ``[N, h, w, H]``.
        column_cover: ``[N, h, w, W]``.

    Returns:
        centres ``[N, h, w, C]``.
    """
    h, w = row_cover.shape[1:3]
    cover = row_cover[..., :, None] * column_cover[..., None, :]  # [N, h, w, H, W]
    cover = (cover * weights[:, None, None]).flatten(3).flatten(1, 2)  # [N, h w, H W]
    cover = cover / cover.sum(-1, keepdim=True)
    return torch.bmm(cover.to(x.dtype), x.flatten(1, 2)).unflatten(1, (h, w))
