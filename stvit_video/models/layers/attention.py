"""Multi-head attention, and that over the windows of a grid.

Letters: B batch, T frames, H rows, W columns, C channels; M windows, Q queries, K keys,
N tokens of a window, h heads, d channels of a head.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit_video.models.layers.windows import (
    Size,
    WindowPlan,
    WindowSize,
    group_mask,
    merge,
    partition,
    plan_windows,
    window_order,
)


class Attention(nn.Module):
    """The parameters of multi-head attention, and its parts: project and attend.

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
        return self._project(x, 0, 1)

    def project_keys_values(self, x: Tensor) -> Tensor:
        """Project ``[..., C]`` to keys and values ``[..., 2C]``."""
        return self._project(x, 1, 3)

    def project_keys(self, x: Tensor) -> Tensor:
        """Project ``[..., C]`` to keys ``[..., C]``."""
        return self._project(x, 1, 2)

    def project_values(self, x: Tensor) -> Tensor:
        """Project ``[..., C]`` to values ``[..., C]``."""
        return self._project(x, 2, 3)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        rows = slice(first * self.dim, last * self.dim)
        return F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])

    def attend(self, queries: Tensor, keys_values: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Let projected queries gather values; ``proj`` of the result is still to come.

        Args:
            queries: ``[M, Q, C]``.
            keys_values: ``[M, K, 2C]``.
            mask: added to the logits, ``[M, 1, 1, K]`` or what has four axes like these.

        Returns:
            ``[M, Q, C]``.
        """
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
        cut_windows: see there, ``cut``.
    """

    relative_position_bias_table: Tensor | None
    relative_position_index: Tensor

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
            index = relative_position_index(self.table_window)
            self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside the windows of ``[B, T, H, W, C]``; the shape stays."""
        batch, t, h, w = x.shape[:4]
        plan = plan_windows(
            (int(t), int(h), int(w)),  # fvcore traces with sizes that are tensors
            self.window,
            self.shift,
            mask_padding=self.mask_padding,
            cut=self.cut_windows,
        )
        order = window_order(plan, batch, x.device)
        return merge(self._attend_inside(partition(x, plan, order), plan), plan, order)

    def _attend_inside(self, windows: Tensor, plan: WindowPlan) -> Tensor:
        """Attend inside windows ``[M, B, N, C]``, group by group."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [M, B, h, N, d]
        bias = self._bias(prod(plan.window), q.dtype)
        outs, first = [], 0
        for group in plan.groups:
            last = first + prod([run.windows for run in group])
            mask = _add_mask(bias, group_mask(plan, group, q.device), dtype=q.dtype)
            outs.append(_attend(*(x[first:last].flatten(0, 1) for x in (q, k, v)), mask=mask))
            first = last
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return self.proj(out.view(windows.shape))

    def _bias(self, tokens: int, dtype: torch.dtype) -> Tensor | None:
        """Give the bias of each pair of tokens of a window, ``[1, h, N, N]``, or None."""
        table = self.relative_position_bias_table
        if table is None:
            return None
        # The released models cut the index of the full window to its first N rows and columns.
        index = self.relative_position_index[:tokens, :tokens].flatten()
        # By heads, of which each has a short column of the table: 2.2 instead of 8.0 ms for
        # 24 heads and 392 tokens, and 3.9 instead of 36 ms with the backward pass.
        bias = table.to(dtype).t().contiguous().index_select(1, index)
        return bias.view(1, -1, tokens, tokens)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    # [M, h, N, d] each -> [M, N, C]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _add_mask(bias: Tensor | None, mask: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """Add a bias ``[1, h, N, N]`` and a mask ``[N, N]``, either of which may be missing.

    The sum has four axes, because the fused kernels take no other mask.
    """
    if mask is None:
        return bias
    mask = mask[None, None].to(dtype)
    return mask if bias is None else bias + mask


def _sides(window: WindowSize) -> Size:
    t, h, w = window
    assert t is not None and h is not None and w is not None, "a bias table needs a fixed window"
    return t, h, w


def relative_position_index(window: Size) -> Tensor:
    """Give the row of the bias table for each pair of tokens of a window: int64 ``[N, N]``."""
    axes = [torch.arange(side) for side in window]
    tokens = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])
    index = torch.zeros(prod(window), prod(window), dtype=torch.int64)
    for axis, side in zip(tokens, window, strict=True):
        index = index * (2 * side - 1) + (axis[:, None] - axis[None, :] + side - 1)
    return index
