"""Multi-head attention, and self-attention inside the windows of a grid.

Notation: B batch, T frames, H rows, W columns, C channels; M windows, Q queries, K keys,
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
    plan_windows,
    window_order,
    window_partition,
    window_reverse,
)


class Attention(nn.Module):
    """Parameters of multi-head attention, and its steps: project, then attend.

    Queries may come from other tokens than keys and values. One ``qkv`` matrix still holds all
    three projections, so that a layer that generates semantic tokens has the same parameters as
    the dense layer that it replaces.

    Args:
        dim: channels C.
        num_heads: heads h, which must divide C.
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
        """Attend with projected queries, keys and values.

        Args:
            queries: ``[M, Q, C]``.
            keys_values: ``[M, K, 2C]``.
            mask: added to the logits, ``[M, 1, 1, K]`` or another shape that broadcasts to
                ``[M, h, Q, K]``.

        Returns:
            attended values before the output projection ``proj``, ``[M, Q, C]``.
        """
        q = self._split_heads(queries)
        k, v = (self._split_heads(x) for x in keys_values.chunk(2, dim=-1))
        return _attend(q, k, v, mask=mask)

    def _split_heads(self, x: Tensor) -> Tensor:
        """Map ``[M, N, C]`` to ``[M, h, N, d]``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class WindowAttention(Attention):
    """Self-attention inside regular or shifted windows of a grid (Swin Transformer, section 3.2).

    Args:
        dim: channels C.
        num_heads: heads h.
        window: frames, rows and columns of a window; None covers the whole axis.
        shift: roll of each axis.
        position_bias: learn a bias for each relative position and head; the window must not
            contain None.
        mask_padding: see :func:`~stvit_video.models.layers.windows.plan_windows`.
        cut_windows: ``cut`` of :func:`~stvit_video.models.layers.windows.plan_windows`.
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
        self.table_window = _fixed_window(window) if position_bias else None
        if self.table_window is not None:
            rows = prod(2 * side - 1 for side in self.table_window)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            index = relative_position_index(self.table_window)
            self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, H, W, C]`` to ``[B, T, H, W, C]``."""
        batch, t, h, w = x.shape[:4]
        plan = plan_windows(
            (int(t), int(h), int(w)),  # sizes are tensors while fvcore traces
            self.window,
            self.shift,
            mask_padding=self.mask_padding,
            cut=self.cut_windows,
        )
        order = window_order(plan, batch, x.device)
        windows = self._attend_windows(window_partition(x, plan, order), plan)
        return window_reverse(windows, plan, order)

    def _attend_windows(self, windows: Tensor, plan: WindowPlan) -> Tensor:
        """Map windows ``[M, B, N, C]`` to ``[M, B, N, C]``, group by group."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [M, B, h, N, d]
        bias = self._position_bias(prod(plan.window), q.dtype)
        outs, first = [], 0
        for group in plan.groups:
            last = first + prod([run.windows for run in group])
            mask = _add_mask(bias, group_mask(plan, group, q.device), dtype=q.dtype)
            outs.append(_attend(*(x[first:last].flatten(0, 1) for x in (q, k, v)), mask=mask))
            first = last
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return self.proj(out.view(windows.shape))

    def _position_bias(self, tokens: int, dtype: torch.dtype) -> Tensor | None:
        """Return the bias of each pair of tokens of a window, ``[1, h, N, N]``, or None."""
        table = self.relative_position_bias_table
        if table is None:
            return None
        # As in the released models, a smaller window uses the first N rows and columns.
        index = self.relative_position_index[:tokens, :tokens].flatten()
        # Index the transposed table, with one short row per head: 2.2 instead of 8.0 ms for
        # 24 heads and 392 tokens, and 3.9 instead of 36 ms with the backward pass.
        bias = table.to(dtype).t().contiguous().index_select(1, index)
        return bias.view(1, -1, tokens, tokens)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Map q ``[M, h, Q, d]``, k and v ``[M, h, K, d]`` to ``[M, Q, C]``."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _add_mask(bias: Tensor | None, mask: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """Add an optional mask ``[N, N]`` to an optional bias ``[1, h, N, N]``.

    The result has four axes, which the fused attention kernels require.
    """
    if mask is None:
        return bias
    mask = mask[None, None].to(dtype)
    return mask if bias is None else bias + mask


def _fixed_window(window: WindowSize) -> Size:
    t, h, w = window
    assert t is not None and h is not None and w is not None, "a bias table needs a fixed window"
    return t, h, w


def relative_position_index(window: Size) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window: int64 ``[N, N]``."""
    axes = [torch.arange(side) for side in window]
    tokens = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])
    index = torch.zeros(prod(window), prod(window), dtype=torch.int64)
    for axis, side in zip(tokens, window, strict=True):
        index = index * (2 * side - 1) + (axis[:, None] - axis[None, :] + side - 1)
    return index
