"""Equations 1 to 6 of the STViT paper, written as loops over windows, regions and tokens.

The paper is "Making Vision Transformers Efficient from A Token Sparsification View" (CVPR 2023).
Nothing of the package is imported, so that the package can be compared with this file.
Everything works on one frame: image tokens X are ``[H, W, C]`` and semantic tokens S are
``[h, w, C]``. Weights are a plain ``dict[str, Tensor]`` with the names of the package's modules:

- a transformer layer: ``norm1.*``, ``attn.qkv.*`` (queries, keys and values in that order),
  ``attn.proj.*``, ``norm2.*``, ``mlp.fc1.*``, ``mlp.fc2.*`` and, with layer scale,
  ``residual1.scale.gamma`` and ``residual2.scale.gamma``;
- f_intra and f_inter of the pooling: ``intra.*`` and ``inter.*``, each ``depthwise.*``, ``norm.*``
  and ``pointwise.*``;
- a generation module: ``pooling.*``, the layers ``first.*``, ``second.*``, ``further.0.*``, ...
  and, with global cluster centers, ``global_centers [rows, columns, C]``.

Where the paper leaves a choice, the choice is an argument. The readings that are fixed:

- Transformer layers are pre-norm. One norm, ``norm1``, serves queries, keys and values; the norm
  of equation 2's queries is of S1 + G.
- Regions of the pooling are those of adaptive pooling, which overlap where the side of a window is
  no multiple of w_s. Both depthwise convolutions are padded with zeros: that of f_intra around each
  region, that of f_inter around the w_s x w_s centers of each window.
- O_i has r0 x r0 values. If the largest region of the grid is not r0 x r0, O_i is resized to it
  bilinearly; smaller regions use the top left part of O_i.
- Layers after the second have no global cluster centers.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Range = tuple[int, int]
Cells = dict[tuple[int, int], Tensor]  # (row, column) -> the vector of that cell


# The pieces that every equation uses


def part(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with ``prefix`` and a dot, named by what follows."""
    start = prefix + "."
    return {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}


def layer_norm(x: Tensor, weights: Weights, *, eps: float) -> Tensor:
    """Layer norm of each vector of ``x [..., C]``."""
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered**2).mean(-1, keepdim=True)
    return centered / torch.sqrt(variance + eps) * weights["weight"] + weights["bias"]


def gelu(x: Tensor) -> Tensor:
    """GELU of each value, with the error function."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear(x: Tensor, weights: Weights) -> Tensor:
    """A linear layer on each vector of ``x [..., C_in]``: ``[..., C_out]``."""
    return x @ weights["weight"].T + weights["bias"]


def as_grid(cells: Cells, rows: int, columns: int) -> Tensor:
    """The cells as one tensor ``[rows, columns, C]``."""
    return torch.stack(
        [torch.stack([cells[row, column] for column in range(columns)]) for row in range(rows)]
    )


def tokens_in(x: Tensor, rows: Range, columns: Range) -> Tensor:
    """The tokens of ``x [H, W, C]`` in a range of rows and one of columns, as a list ``[n, C]``."""
    tokens = [x[row, column] for row in range(*rows) for column in range(*columns)]
    return torch.stack(tokens) if tokens else x.new_zeros(0, x.shape[-1])


# Equations 4 and 5: the initial cluster centers


def regions(size: int, *, window: int | None, tokens: int) -> list[Range]:
    """The image tokens of each semantic token along one axis, as half-open ranges.

    The axis, of ``size`` image tokens, is cut into windows of side ``window`` (None: the whole axis
    is one window), and each window into ``tokens`` regions of adaptive pooling. Where the last
    window does not fit, its regions are cut at ``size``; those that begin there are left out.
    """
    side = size if window is None else window
    ranges = []
    for window_start in range(0, size, side):
        for i in range(tokens):
            start = window_start + math.floor(i * side / tokens)
            stop = window_start + math.ceil((i + 1) * side / tokens)
            if start < size:
                ranges.append((start, min(stop, size)))
    return ranges


def largest_region(size: int, *, window: int | None, tokens: int) -> int:
    """The side of the largest region of a whole window along an axis of ``size`` image tokens."""
    side = size if window is None else window
    return max(stop - start for start, stop in regions(side, window=None, tokens=tokens))


def mask_function(cells: Cells, weights: Weights, *, eps: float) -> Cells:
    """Equation 4, ``Conv(GELU(LayerNorm(DepthwiseConv(X))))``, for each of the ``cells``.

    Args:
        cells: the input, a vector ``[C]`` each. A cell that is missing counts as zero.
        weights: f_intra's or f_inter's, with ``depthwise.weight [C, 1, 3, 3]`` and
            ``pointwise.weight [C_out, C, 1, 1]``; ``pointwise.bias`` may be missing.
        eps: of the layer norm.

    Returns:
        The output of the same cells, ``[C_out]`` each.
    """
    taps = [
        (i - 1, j - 1, weights["depthwise.weight"][:, 0, i, j]) for i in range(3) for j in range(3)
    ]
    pointwise = weights["pointwise.weight"][:, :, 0, 0]
    outputs = {}
    for row, column in cells:
        value = weights["depthwise.bias"]
        for down, right, tap in taps:
            neighbor = cells.get((row + down, column + right))
            if neighbor is not None:
                value = value + tap * neighbor
        value = gelu(layer_norm(value, part(weights, "norm"), eps=eps))
        output = pointwise @ value
        if "pointwise.bias" in weights:
            output = output + weights["pointwise.bias"]
        outputs[row, column] = output
    return outputs


def softmax_sum(logits: Cells, cells: Cells) -> Tensor:
    """``Softmax(logits) · cells`` over the cells of one region: ``[C]``."""
    probabilities = torch.softmax(torch.stack([logits[place] for place in cells]), dim=0)
    return sum(
        (p * cell for p, cell in zip(probabilities, cells.values(), strict=True)),
        start=torch.zeros_like(next(iter(cells.values()))),
    )


def intra_inter_pooling(
    x: Tensor, weights: Weights, *, window: int | None, tokens: int, r0: int, eps: float
) -> Tensor:
    """Equations 4 and 5: the initial cluster centers P by intra and inter-window spatial pooling.

    Args:
        x: image tokens ``[H, W, C]``.
        weights: ``intra.*`` (f_intra, one output) and ``inter.*`` (f_inter, ``r0 * r0`` outputs).
        window: side of the windows of local attention, None for global attention.
        tokens: w_s, the centers of a window along each axis.
        r0: side of the largest region of the grid that f_inter was made for.
        eps: of the layer norms.

    Returns:
        P ``[h, w, C]``.
    """
    height, width, _ = x.shape
    row_ranges = regions(height, window=window, tokens=tokens)
    column_ranges = regions(width, window=window, tokens=tokens)

    # Equation 4: M_i = f_intra(X_w^i), and P_hat_i = Softmax(M_i) · X_w^i
    region_cells: dict[tuple[int, int], Cells] = {}
    masks: dict[tuple[int, int], Cells] = {}
    integrated: Cells = {}
    for i, rows in enumerate(row_ranges):
        for j, columns in enumerate(column_ranges):
            cells = {(row, col): x[row, col] for row in range(*rows) for col in range(*columns)}
            outputs = mask_function(cells, part(weights, "intra"), eps=eps)
            region_cells[i, j] = cells
            masks[i, j] = {place: output[0] for place, output in outputs.items()}
            integrated[i, j] = softmax_sum(masks[i, j], cells)

    # O = f_inter(P_hat), in the w_s x w_s tokens of each window
    offsets: Cells = {}
    for top in range(0, len(row_ranges), tokens):
        for left in range(0, len(column_ranges), tokens):
            of_window = {
                (i, j): integrated[i, j]
                for i in range(top, min(top + tokens, len(row_ranges)))
                for j in range(left, min(left + tokens, len(column_ranges)))
            }
            offsets.update(mask_function(of_window, part(weights, "inter"), eps=eps))

    # Equation 5: P_i = Softmax(M_i + O_i) · X_w
    r = (
        largest_region(height, window=window, tokens=tokens),
        largest_region(width, window=window, tokens=tokens),
    )
    centers: Cells = {}
    for (i, j), mask in masks.items():
        offset = offsets[i, j].reshape(r0, r0)
        if r != (r0, r0):
            offset = F.interpolate(
                offset[None, None], size=r, mode="bilinear", align_corners=False
            )[0, 0]
        top, left = row_ranges[i][0], column_ranges[j][0]
        revised = {
            (row, column): value + offset[row - top, column - left]
            for (row, column), value in mask.items()
        }
        centers[i, j] = softmax_sum(revised, region_cells[i, j])
    return as_grid(centers, len(row_ranges), len(column_ranges))


# The keys of a window


def key_window(
    index: int, *, size: int, window: int, side: int | None, border: str = "inside"
) -> Range:
    """The image tokens along one axis that are keys of window number ``index``.

    They are ``side`` tokens (w_k) centered on the window, which has ``window`` tokens of the axis'
    ``size``. At the ends of the axis they are moved inside (``border="inside"``, where a ``side``
    of ``size`` or more is the whole axis) or cut off (``"clip"``). ``side`` None is the whole axis.
    """
    if side is None:
        return 0, size
    start = index * window - (side - window) // 2
    if border == "clip":
        return max(start, 0), min(start + side, size)
    if border != "inside":
        raise ValueError(f"Unknown border: {border}")
    if side >= size:
        return 0, size
    start = min(max(start, 0), size - side)
    return start, start + side


def semantic_key_window(
    index: int,
    *,
    size: int,
    window: int,
    tokens: int,
    side: int | None,
    count: int,
    border: str = "inside",
) -> Range:
    """The semantic tokens along one axis that are keys of window number ``index``.

    All ``count`` of them if the key window covers the axis. Else those of as many whole windows as
    fit into the key window (at least one), centered on the window's own; the earlier windows are
    the fewer if their number is even. At the ends of the axis, these tokens are moved inside
    (``border="inside"``) or cut off (``"clip"``). Each window has ``tokens`` semantic tokens; the
    last one may have fewer.
    """
    whole_axis = key_window(index, size=size, window=window, side=side, border=border) == (0, size)
    if side is None or whole_axis:
        return 0, count
    covered = max(1, side // window)
    length = min(covered * tokens, count)
    first = (index - (covered - 1) // 2) * tokens
    if border == "inside":
        first = min(max(first, 0), count - length)
    return max(first, 0), min(first + length, count)


def keys_of_window(
    index: int,
    *,
    size: int,
    window: int | None,
    tokens: int,
    side: int | None,
    count: int,
    border: str,
) -> tuple[Range, Range]:
    """The image and the semantic tokens along one axis that are keys of window number ``index``.

    The arguments are those of :func:`semantic_key_window`; ``window`` None is the whole axis.
    """
    window = size if window is None else window
    return (
        key_window(index, size=size, window=window, side=side, border=border),
        semantic_key_window(
            index,
            size=size,
            window=window,
            tokens=tokens,
            side=side,
            count=count,
            border=border,
        ),
    )


# Equations 1 to 3: the generation of semantic tokens


def attend(
    queries_normed: Tensor,
    keys_normed: Tensor,
    values_normed: Tensor,
    weights: Weights,
    *,
    heads: int,
) -> Tensor:
    """``MHA(queries, keys, values)`` with its output projection.

    Args:
        queries_normed: what queries are projected from, after its norm, ``[n, C]``.
        keys_normed: what keys are projected from, after its norm, ``[m, C]``.
        values_normed: what values are projected from, after its norm, ``[m, C]``.
        weights: ``qkv.*`` and ``proj.*``.
        heads: number of heads; a query of d channels is scaled by ``d ** -0.5``.

    Returns:
        ``[n, C]``.
    """
    channels = queries_normed.shape[-1]
    d = channels // heads
    w_q, w_k, w_v = weights["qkv.weight"].split(channels)
    b_q, b_k, b_v = weights["qkv.bias"].split(channels)
    queries = queries_normed @ w_q.T + b_q
    keys = keys_normed @ w_k.T + b_k
    values = values_normed @ w_v.T + b_v
    outputs = []
    for query in queries:
        attended = []
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            scores = keys[:, own] @ query[own] * d**-0.5
            attended.append(torch.softmax(scores, dim=0) @ values[:, own])
        outputs.append(torch.cat(attended))
    return linear(torch.stack(outputs), part(weights, "proj"))


def layer_scale(branch: Tensor, weights: Weights, name: str) -> Tensor:
    """The output of the branch ``name``, ``[..., C]``, times its layer scale if it has one."""
    gamma = weights.get(f"{name}.scale.gamma")
    return branch if gamma is None else gamma * branch


def feed_forward(tokens: Tensor, weights: Weights, *, eps: float) -> Tensor:
    """``FFN(S) + S`` of the tokens ``[..., C]``, with the norm and the layer scale."""
    normed = layer_norm(tokens, part(weights, "norm2"), eps=eps)
    hidden = gelu(linear(normed, part(weights, "mlp.fc1")))
    output = linear(hidden, part(weights, "mlp.fc2"))
    return tokens + layer_scale(output, weights, "residual2")


def generation_layer(
    tokens: Tensor,
    x: Tensor,
    weights: Weights,
    *,
    heads: int,
    window: int | None,
    tokens_per_window: int,
    key_window: int | None,
    semantic_keys: bool,
    border: str = "inside",
    shortcut: bool = True,
    global_centers: Tensor | None = None,
    centers_role: str = "queries",
    eps: float,
) -> Tensor:
    """Equation 1, or with global cluster centers equation 2: a transformer layer of the STGM.

    Args:
        tokens: P in equation 1, S1 in equation 2, ``[h, w, C]``.
        x: image tokens ``[H, W, C]``.
        weights: of the layer.
        heads: number of heads.
        window: side of the windows of local attention, None for global attention.
        tokens_per_window: w_s, the semantic tokens of a window along each axis.
        key_window: w_k, side of the windows of image tokens that are keys, None for all.
        semantic_keys: whether the semantic tokens are keys beside X. True is equation 2, False
            equation 1 as it is printed.
        border: what happens to key windows at the ends of an axis, ``"inside"`` or ``"clip"``.
        shortcut: False leaves out the residual of the attention.
        global_centers: G ``[h, w, C]``.
        centers_role: what G is added to: ``"queries"`` as in equation 2; ``"residual"``, queries
            and residual; ``"keys"``, queries and the semantic tokens' keys ("learned", Table 7).
        eps: of the layer norms.

    Returns:
        S1 in equation 1, S2 in equation 2, ``[h, w, C]``.
    """
    if centers_role not in ("queries", "residual", "keys"):
        raise ValueError(f"Unknown role of global centers: {centers_role}")
    with_centers = tokens if global_centers is None else tokens + global_centers
    norm1 = part(weights, "norm1")
    x_normed = layer_norm(x, norm1, eps=eps)
    tokens_normed = layer_norm(tokens, norm1, eps=eps)
    queries_normed = layer_norm(with_centers, norm1, eps=eps)
    semantic_keys_normed = queries_normed if centers_role == "keys" else tokens_normed
    residual = with_centers if centers_role == "residual" else tokens

    (h, w, _), (height, width, _) = tokens.shape, x.shape
    t = tokens_per_window
    attended: Cells = {}
    for a in range(math.ceil(h / t)):
        rows, semantic_rows = keys_of_window(
            a, size=height, window=window, tokens=t, side=key_window, count=h, border=border
        )
        own_rows = (a * t, min((a + 1) * t, h))
        for b in range(math.ceil(w / t)):
            columns, semantic_columns = keys_of_window(
                b, size=width, window=window, tokens=t, side=key_window, count=w, border=border
            )
            own_columns = (b * t, min((b + 1) * t, w))
            keys = values = tokens_in(x_normed, rows, columns)
            if semantic_keys:
                of_keys = tokens_in(semantic_keys_normed, semantic_rows, semantic_columns)
                of_values = tokens_in(tokens_normed, semantic_rows, semantic_columns)
                keys = torch.cat([of_keys, keys])
                values = torch.cat([of_values, values])
            queries = tokens_in(queries_normed, own_rows, own_columns)
            outputs = attend(queries, keys, values, part(weights, "attn"), heads=heads)
            places = [(i, j) for i in range(*own_rows) for j in range(*own_columns)]
            attended.update(zip(places, outputs, strict=True))

    branch = layer_scale(as_grid(attended, h, w), weights, "residual1")
    return feed_forward(branch + residual if shortcut else branch, weights, eps=eps)


def repeat_centers(global_centers: Tensor, rows: int, columns: int) -> Tensor:
    """G ``[a, b, C]`` repeated over, or cut to, a semantic grid: ``[rows, columns, C]``."""
    a, b, _ = global_centers.shape
    cells = {(i, j): global_centers[i % a, j % b] for i in range(rows) for j in range(columns)}
    return as_grid(cells, rows, columns)


def generate(
    x: Tensor,
    weights: Weights,
    *,
    heads: int,
    window: int | None,
    tokens_per_window: int,
    key_windows: Sequence[int | None],
    semantic_keys: Sequence[bool],
    r0: int,
    eps: float,
    pooling_eps: float,
    border: str = "inside",
    centers: Tensor | None = None,
    shortcuts: Sequence[bool] | None = None,
    centers_role: str = "queries",
) -> Tensor:
    """The semantic token generation module: equations 4, 5, 1 and 2 and the layers that follow.

    Args:
        x: image tokens ``[H, W, C]``.
        weights: of the module. Without ``global_centers``, the second layer has no G.
        heads: number of heads.
        window: side of the windows of local attention, None for global attention.
        tokens_per_window: w_s, the semantic tokens of a window along each axis.
        key_windows: w_k of each layer, None for all image tokens.
        semantic_keys: of each layer, whether the semantic tokens are keys beside X.
        r0: side of the largest region of the grid that f_inter was made for.
        eps: of the layers' norms.
        pooling_eps: of the pooling's norms.
        border: what happens to key windows at the ends of an axis, ``"inside"`` or ``"clip"``.
        centers: initial cluster centers ``[h, w, C]`` in place of the pooled ones ("reusing",
            Table 9).
        shortcuts: of each layer, whether its attention has a residual; None for all.
        centers_role: what G is added to, as in :func:`generation_layer`.

    Returns:
        The semantic tokens ``[h, w, C]``.
    """
    tokens = centers
    if tokens is None:
        tokens = intra_inter_pooling(
            x,
            part(weights, "pooling"),
            window=window,
            tokens=tokens_per_window,
            r0=r0,
            eps=pooling_eps,
        )
    for number, side in enumerate(key_windows):
        name = ("first", "second")[number] if number < 2 else f"further.{number - 2}"
        g = weights.get("global_centers") if number == 1 else None
        tokens = generation_layer(
            tokens,
            x,
            part(weights, name),
            heads=heads,
            window=window,
            tokens_per_window=tokens_per_window,
            key_window=side,
            semantic_keys=semantic_keys[number],
            border=border,
            shortcut=True if shortcuts is None else shortcuts[number],
            global_centers=None if g is None else repeat_centers(g, *tokens.shape[:2]),
            centers_role=centers_role,
            eps=eps,
        )
    return tokens


def decoupled_attention(
    tokens: Tensor, global_centers: Tensor, x: Tensor, weights: Weights, *, heads: int
) -> tuple[Tensor, Tensor]:
    """Equation 3: the attention map of S1 + G, and the same as ``Softmax(A_s + A_g)``.

    Both are without norms, as the paper prints them, with biases and scaled by ``d ** -0.5``. "S1 +
    X" among the keys is read as ``Concat(S1, X)``.

    Args:
        tokens: S1 ``[N_s, C]``.
        global_centers: G ``[N_s, C]``.
        x: image tokens ``[N_i, C]``.
        weights: ``qkv.*``.
        heads: number of heads.

    Returns:
        Two maps ``[heads, N_s, N_s + N_i]`` that are equal.
    """
    channels = tokens.shape[-1]
    d = channels // heads
    w_q, w_k, _ = weights["qkv.weight"].split(channels)
    b_q, b_k, _ = weights["qkv.bias"].split(channels)
    joint, decoupled = [], []
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)
        keys = torch.cat([tokens, x]) @ w_k[own].T + b_k[own]
        a = ((tokens + global_centers) @ w_q[own].T + b_q[own]) @ keys.T * d**-0.5
        a_s = (tokens @ w_q[own].T + b_q[own]) @ keys.T * d**-0.5
        a_g = (global_centers @ w_q[own].T) @ keys.T * d**-0.5
        joint.append(torch.softmax(a, dim=-1))
        decoupled.append(torch.softmax(a_s + a_g, dim=-1))
    return torch.stack(joint), torch.stack(decoupled)


# Equation 6: the recovery of image tokens


def recovery_window(index: int, *, tokens: int, side: int | None, count: int) -> Range:
    """The semantic tokens along one axis that image tokens of window number ``index`` query.

    All ``count`` of them if ``side`` is None. Else ``side`` of them, centered on the window's own
    ``tokens`` and cut off at the ends of the axis.
    """
    if side is None:
        return 0, count
    start = index * tokens - (side - tokens) // 2
    return max(start, 0), min(start + side, count)


def recover(
    x: Tensor,
    tokens: Tensor,
    weights: Weights,
    *,
    heads: int,
    window: int | None,
    tokens_per_window: int,
    side: int | None,
    eps: float,
) -> Tensor:
    """Equation 6: image tokens query the semantic tokens of the corresponding window.

    Args:
        x: image tokens ``[H, W, C]``.
        tokens: semantic tokens ``[h, w, C]``.
        weights: of the layer.
        heads: number of heads.
        window: w^r, side of the windows of image tokens, None if all are one window.
        tokens_per_window: the semantic tokens of such a window along each axis.
        side: w_s^r, side of the windows of semantic tokens, None for all semantic tokens.
        eps: of the layer norms.

    Returns:
        The image tokens ``[H, W, C]``.
    """
    norm1 = part(weights, "norm1")
    x_normed = layer_norm(x, norm1, eps=eps)
    tokens_normed = layer_norm(tokens, norm1, eps=eps)

    (h, w, _), (height, width, _) = tokens.shape, x.shape
    row_window = height if window is None else window
    column_window = width if window is None else window
    attended: Cells = {}
    for a in range(math.ceil(height / row_window)):
        for b in range(math.ceil(width / column_window)):
            own_rows = (a * row_window, min((a + 1) * row_window, height))
            own_columns = (b * column_window, min((b + 1) * column_window, width))
            rows = recovery_window(a, tokens=tokens_per_window, side=side, count=h)
            columns = recovery_window(b, tokens=tokens_per_window, side=side, count=w)
            keys = tokens_in(tokens_normed, rows, columns)
            queries = tokens_in(x_normed, own_rows, own_columns)
            outputs = attend(queries, keys, keys, part(weights, "attn"), heads=heads)
            places = [(i, j) for i in range(*own_rows) for j in range(*own_columns)]
            attended.update(zip(places, outputs, strict=True))

    branch = layer_scale(as_grid(attended, height, width), weights, "residual1")
    return feed_forward(branch + x, weights, eps=eps)
