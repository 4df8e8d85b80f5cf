"""Multi-head attention over the windows of a grid.

Letters: B batch, T frames, H rows, W columns, C channels; M windows, Q queries, K keys,
N tokens of a window, h heads, d channels of a head.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from .pieces import rows_of_a_piece
from .windows import Size, WindowSize, map_windows, merge, partition, plan_windows


class Attention(nn.Module):
    """The parameters of multi-head attention, and its two halves: project and attend.

    Queries may come from other tokens than keys and values do. One ``qkv`` matrix holds the
    three projections all the same, so that a layer that generates semantic tokens has the
    parameters of the dense layer whose place it takes.

    Args:
        dim: channels C.
        num_heads: heads h; C is a multiple of it.
    """

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{dim} channels do not divide into {num_heads} heads"
        self.dim = dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project_queries(self, x: Tensor) -> Tensor:
        """Project ``[..., C]`` to queries ``[..., C]``."""
        return F.linear(x, self.qkv.weight[: self.dim], self.qkv.bias[: self.dim])

    def project_keys_values(self, x: Tensor) -> Tensor:
        """Project ``[..., C]`` to keys and values ``[..., 2C]``."""
        return F.linear(x, self.qkv.weight[self.dim :], self.qkv.bias[self.dim :])

    def attend(self, queries: Tensor, keys_values: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Let queries ``[M, Q, C]`` attend to ``[M, K, 2C]``; returns ``[M, Q, C]``.

        The mask is added to the logits: ``[M, 1, 1, K]`` or what has four axes like these.
        """
        return self.proj(self.gather(queries, keys_values, mask=mask))

    def gather(self, queries: Tensor, keys_values: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Do what :meth:`attend` does, but for the projection of what is gathered."""
        q = self._heads(queries)
        k, v = (self._heads(x) for x in keys_values.chunk(2, dim=-1))
        return _attend(q, k, v, mask=mask)

    def _heads(self, x: Tensor) -> Tensor:
        # [M, N, C] -> [M, h, N, d]
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class WindowAttention(Attention):
    """Self-attention inside windows of a grid, shifted or not (Swin Transformer, section 3.2).

    Args:
        dim: channels C.
        num_heads: heads h.
        window: frames, rows and columns of a window; None covers the whole axis.
        shift: the roll of each axis.
        position_bias: learn a bias for each relative position and head; needs a window without
            None.
        mask_padding: see :func:`~stvit_video.models.layers.windows.plan_windows`.
        cut_windows: see :func:`~stvit_video.models.layers.windows.fit_window`.
    """

    relative_position_bias_table: Tensor | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window: WindowSize,
        shift: Size = (0, 0, 0),
        position_bias: bool = True,
        mask_padding: bool = False,
        cut_windows: bool = True,
    ) -> None:
        super().__init__(dim, num_heads=num_heads)
        self.window = window
        self.shift = shift
        self.mask_padding = mask_padding
        self.cut_windows = cut_windows
        self.register_parameter("relative_position_bias_table", None)
        self.table_window = _sides(window) if position_bias else None
        if self.table_window is not None:
            rows = prod(2 * side - 1 for side in self.table_window)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # What the bias was made of, the bias, and its table, so that no other takes its address.
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside the windows of ``[B, T, H, W, C]``; the shape stays."""
        # While a model is traced its sizes are tensors, by which no plan would be found again.
        batch, t, h, w = (int(size) for size in x.shape[:4])
        plan = plan_windows(
            batch,
            (t, h, w),
            self.window,
            self.shift,
            self.mask_padding,
            x.device,
            self.cut_windows,
        )
        bias = self._bias(prod(plan.window), x.dtype)
        tokens = prod(plan.window)
        windows = sum(count for count, _ in plan.groups)
        size = rows_of_a_piece(windows, device=x.device, numbers=3 * tokens * self.dim)
        if size < windows:
            return map_windows(
                lambda piece, mask: self._attend_inside(piece, ((len(piece), mask),), bias),
                x,
                plan,
                size=size,
            )
        return merge(self._attend_inside(partition(x, plan), plan.groups, bias), plan)

    def _attend_inside(
        self, windows: Tensor, groups: Sequence[tuple[int, Tensor | None]], bias: Tensor | None
    ) -> Tensor:
        """Attend inside windows ``[M, N, C]``, of which ``groups`` tells the masks."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [M, h, N, d]
        sizes = [count for count, _ in groups]
        pieces = zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        outs = [
            _attend(*piece, mask=_add_mask(bias, mask, like=q))
            for piece, (_, mask) in zip(pieces, groups, strict=True)
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return self.proj(out)

    # What is kept between calls is no part of a compiled graph.
    @torch.compiler.disable
    def _bias(self, tokens: int, dtype: torch.dtype) -> Tensor | None:
        """Give the bias of each pair of tokens of a window, ``[1, h, N, N]``, or None."""
        table, window = self.relative_position_bias_table, self.table_window
        if table is None or window is None:
            return None
        # Outside training it changes with the window and the weights only, but a table made in
        # inference_mode does not tell when it changes.
        is_kept = not (torch.is_grad_enabled() or table.is_inference())
        key = (tokens, dtype, table.device, table.data_ptr(), table._version) if is_kept else None
        kept = self._kept  # read once, as other threads may replace it
        if key is not None and kept is not None and kept[0] == key:
            return kept[1]
        # The released models cut the index of the full window to its first N rows and columns.
        index = relative_position_index(window, table.device)[:tokens, :tokens]
        bias = table.to(dtype)[index.flatten()].view(1, tokens, tokens, -1)
        bias = bias.permute(0, 3, 1, 2).contiguous()
        if key is not None:
            self._kept = (key, bias, table.detach())
        return bias

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; the weights may have changed unnoticed."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    # [M, h, N, d] each -> [M, N, C]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _add_mask(bias: Tensor | None, mask: Tensor | None, *, like: Tensor) -> Tensor | None:
    """Add a bias ``[1, h, N, N]`` and a mask ``[N, N]``, either of which may be missing.

    The sum has four axes, because the fused kernels take no other mask.
    """
    if bias is not None:
        bias = bias.to(like.dtype)
    if mask is None:
        return bias
    mask = mask[None, None].to(like.dtype)
    return mask if bias is None else bias + mask


def _sides(window: WindowSize) -> Size:
    t, h, w = window
    assert t is not None and h is not None and w is not None, "a bias table needs a fixed window"
    return t, h, w


@lru_cache(maxsize=64)
def relative_position_index(window: Size, device: torch.device) -> Tensor:
    """Give the row of the bias table for each pair of tokens of a window: int64 ``[N, N]``."""
    with torch.inference_mode(False):
        axes = [torch.arange(side, device=device) for side in window]
        tokens = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])
        index = torch.zeros(prod(window), prod(window), dtype=torch.int64, device=device)
        for axis, side in zip(tokens, window, strict=True):
            index = index * (2 * side - 1) + (axis[:, None] - axis[None, :] + side - 1)
        return index
