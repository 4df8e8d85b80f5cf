"""Initial cluster centers P by pooling image tokens in space (paper, section 3.1).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; a b rows and
columns of the largest region.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import Grid, Windows, grid_of


def new_centers(windows: Windows, *, dim: int, grid: Grid) -> nn.Parameter:
    """Give new learned cluster centers, one for each semantic token of the training grid.

    There are those of whole windows, so that they repeat window by window over a larger grid.

    Args:
        windows: how an axis is cut into windows and semantic tokens.
        dim: channels C.
        grid: rows and columns of the training grid, in image tokens.

    Returns:
        ``[n, m, C]``, Gaussian noise (paper, section 3.1) of standard deviation 0.02, as in the
        released code.
    """
    rows, columns = (windows.tokens * -(-size // windows.side(size)) for size in grid)
    centers = nn.Parameter(torch.empty(rows, columns, dim))
    nn.init.normal_(centers, std=0.02)
    return centers


def tile_centers(centers: Tensor, size: Grid) -> Tensor:
    """Repeat learned centers ``[n, m, C]`` over a grid of semantic tokens ``[h, w, C]``."""
    if centers.shape[:2] == size:
        return centers
    (height, width), (rows, columns) = size, centers.shape[:2]
    return centers.repeat(-(-height // rows), -(-width // columns), 1)[:height, :width]


class SpatialPooling(nn.Module):
    """Pools each region of a grid into one initial cluster center.

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
        padded: grids end in zeros up to whole windows, which are pooled, too (released STViT-R
            for detection).
    """

    def __init__(self, windows: Windows, *, padded: bool = False) -> None:
        super().__init__()
        self.windows = windows
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        raise NotImplementedError

    def pooled_grid(self, x: Tensor) -> Grid:
        """Give the rows and columns of ``[N, H, W, C]``, with padding if it is pooled, too."""
        rows, columns = grid_of(x)
        if not self.padded:
            return rows, columns
        side = self.windows.side
        return rows + -rows % side(rows), columns + -columns % side(columns)

    def gather_regions(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gather the tokens of each region of ``[N, H, W, C]``.

        Returns:
            tokens ``[N, h, w, a, b, C]``, and whether each is one of its region, bool
            ``[h, w, a, b]``, or None where all are; those that are not are zero.
        """
        sizes = self.pooled_grid(x)
        spans = [self.windows.regions(size) for size in sizes]
        lengths = [_largest(self.windows, size) for size in sizes]
        # Zeros up to the grid that is pooled, and as many as its last regions lack.
        below, beside = (
            axis[-1].start + length - have
            for axis, length, have in zip(spans, lengths, grid_of(x), strict=True)
        )
        if below or beside:
            x = F.pad(x, (0, 0, 0, beside, 0, below))
        # By slices: torch 2.11's inductor loses the gradients of an index here (on the CPU).
        rows, columns = spans
        x = torch.stack([x[:, a : a + lengths[0]] for a, _ in rows], dim=1)
        cells = torch.stack([x[:, :, :, a : a + lengths[1]] for a, _ in columns], dim=2)
        if all(
            span.length == length
            for axis, length in zip(spans, lengths, strict=True)
            for span in axis
        ):
            return cells, None
        of_rows, of_columns = (
            torch.stack([torch.arange(length, device=x.device) < span.length for span in axis])
            for axis, length in zip(spans, lengths, strict=True)
        )
        inside = of_rows[:, None, :, None] & of_columns[None, :, None, :]
        return cells * inside[..., None], inside


class AveragePooling(SpatialPooling):
    """The mean of each region: non-parametric adaptive pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        cells, inside = self.gather_regions(x)
        if inside is None:
            return cells.mean((3, 4))
        return cells.sum((3, 4)) / inside.sum((2, 3))[..., None]


class MaxPooling(SpatialPooling):
    """The maximum of each region, channel by channel (as the released STViT-R)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        cells, inside = self.gather_regions(x)
        if inside is not None:
            cells = cells.masked_fill(~inside[..., None], float("-inf"))
        return cells.amax((3, 4))


class LearnedCenters(SpatialPooling):
    """Initial centers that are learned, the same for every image (paper, Table 7, "global").

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
        centers: ``[n, m, C]``, see :func:`new_centers`.
    """

    def __init__(self, windows: Windows, *, centers: nn.Parameter, padded: bool = False) -> None:
        super().__init__(windows, padded=padded)
        self.centers = centers

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]``, of which only the size matters, to ``[N, h, w, C]``."""
        height, width = (len(self.windows.regions(size)) for size in self.pooled_grid(x))
        return tile_centers(self.centers, (height, width)).expand(x.shape[0], -1, -1, -1)


class IntraInterPooling(SpatialPooling):
    """Intra and inter-window spatial pooling (paper, section 3.1, equations 4 and 5).

    A mask M, predicted from the tokens X_w of a region alone, weighs them (equation 4)::

        M = f_intra(X_w)        P^ = softmax(M) . X_w

    and an offset O, predicted from the centers P^ of its window, revises the mask so that
    centers differ from each other (equation 5)::

        O = f_inter(P^)         P = softmax(M + O) . X_w

    Both functions are ``Conv(GELU(LayerNorm(DepthwiseConv(.))))``. f_inter has an output for each
    token of a region. Their last convolutions start at zero: an untrained module is adaptive
    average pooling. (The bias of the last one of f_intra cancels in the softmax, so there is
    none.)

    On a grid of another size regions may be of another size: O is resized (bilinear) to the
    largest one, and smaller regions take its top left.

    Args:
        windows: how an axis is cut into windows and regions; both axes are cut alike.
        dim: channels C.
        grid: rows and columns of the training grid.
    """

    def __init__(self, windows: Windows, *, dim: int, grid: Grid, padded: bool = False) -> None:
        super().__init__(windows, padded=padded)
        self.region = _largest(windows, grid[0]), _largest(windows, grid[1])
        self.intra = _MaskFunction(dim, outputs=1, bias=False)
        self.inter = _MaskFunction(dim, outputs=prod(self.region))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, H, W, C]`` to ``[N, h, w, C]``."""
        cells, inside = self.gather_regions(x)
        mask = self.intra(cells.flatten(0, 2)).view(cells.shape[:-1])  # equation 4
        pooled = _weighted_sum(mask, cells, inside)
        mask = mask + self._offset(pooled, like=mask)
        return _weighted_sum(mask, cells, inside)  # equation 5

    def _offset(self, pooled: Tensor, *, like: Tensor) -> Tensor:
        """Map centers ``[N, h, w, C]`` to an offset of each token, ``[N, h, w, a, b]``."""
        (height, width), side = grid_of(pooled), self.windows.tokens
        below, beside = -height % side, -width % side
        if below or beside:
            pooled = F.pad(pooled, (0, 0, 0, beside, 0, below))
        windows = pooled.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        offset = self.inter(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        offset = offset.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        offset = offset.unflatten(3, self.region)
        if offset.shape != like.shape:
            resized = F.interpolate(offset.flatten(1, 2), size=like.shape[3:], mode="bilinear")
            offset = resized.view(like.shape)
        return offset


class _MaskFunction(nn.Module):
    """Equation 4, ``Conv(GELU(LayerNorm(DepthwiseConv(x))))``, on grids of their own each.

    Args:
        dim: channels C.
        outputs: of each token.
        bias: of the last convolution.
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


def _largest(windows: Windows, size: int) -> int:
    """Give the tokens of the largest region along an axis of ``size`` tokens."""
    return max(span.length for span in windows.regions_of_a_window(size))


def _weighted_sum(mask: Tensor, cells: Tensor, inside: Tensor | None) -> Tensor:
    """Weigh the tokens of each region by the softmax of a mask.

    Args:
        mask: logits ``[N, h, w, a, b]``.
        cells: tokens ``[N, h, w, a, b, C]``.
        inside: whether each is one of its region, ``[h, w, a, b]``; None where all are.

    Returns:
        centers ``[N, h, w, C]``.
    """
    if inside is not None:
        mask = mask.masked_fill(~inside, float("-inf"))
    weights = mask.flatten(3).softmax(-1).to(cells.dtype)
    # Mixed precision multiplies in half precision, but a residual stream stays as it is.
    return (weights.unsqueeze(-2) @ cells.flatten(3, 4)).squeeze(-2).to(cells.dtype)
