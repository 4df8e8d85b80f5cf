"""Window attention written token by token, as a reference for the fast layers.

Nothing here rolls or masks a grid: the window of each token is computed from its position.
"""

import math
from collections import defaultdict
from itertools import product

import torch


def window_attention(module, x, *, padding):
    """Return the expected output of ``module`` (a WindowAttention) for ``[B, T, H, W, C]``.

    Args:
        padding: attend to zeros that pad the last windows, as in the released models; otherwise
            windows hold only the tokens of the grid.
    """
    return torch.stack([_one_grid(module, grid, padding=padding) for grid in x])


def _one_grid(module, x, *, padding):
    sizes = x.shape[:3]
    sides, shifts = [], []
    for size, side, shift in zip(sizes, module.window, module.shift, strict=True):
        covers = side is None or side >= size
        sides.append(size if covers else side)
        shifts.append(0 if covers else shift)
    padded = [math.ceil(size / side) * side for size, side in zip(sizes, sides, strict=True)]
    windows = defaultdict(list)
    for place in product(*map(range, padded)):
        is_real = all(at < size for at, size in zip(place, sizes, strict=True))
        if is_real or padding:
            windows[_home(place, padded, sides, shifts)].append((place, is_real))
    out = torch.zeros_like(x)
    nothing = x.new_zeros(x.shape[-1])
    for members in windows.values():
        places = [place for place, _ in members]
        tokens = torch.stack([x[place] if real else nothing for place, real in members])
        q, k, v = module.qkv(tokens).chunk(3, dim=-1)
        bias = _position_bias(module, places, padded, sides, shifts)
        attended = module.proj(multi_head(q, k, v, heads=module.num_heads, bias=bias))
        for (place, real), value in zip(members, attended, strict=True):
            if real:
                out[place] = value
    return out


def _home(place, padded, sides, shifts):
    """Return the window of a token, and whether the shift wrapped it around the edge."""
    return tuple(
        (((at - shift) % size) // side, at < shift)
        for at, size, side, shift in zip(place, padded, sides, shifts, strict=True)
    )


def _position_bias(module, places, padded, sides, shifts):
    """Return the bias of each pair of tokens, ``[heads, N, N]``, or 0."""
    table = module.relative_position_bias_table
    if table is None:
        return 0
    spots = [_spot(place, padded, sides, shifts, full=module.window) for place in places]
    rows = [[_table_row(a, b, module.window) for b in spots] for a in spots]
    return table[torch.tensor(rows)].permute(2, 0, 1)


def _spot(place, padded, sides, shifts, *, full):
    """Return the position of a token in its window.

    For a reduced window the released models use the first entries of the full window's index, so
    its n-th token has the position of the full window's n-th token.
    """
    number = 0
    for at, size, side, shift in zip(place, padded, sides, shifts, strict=True):
        number = number * side + ((at - shift) % size) % side
    return (number // (full[1] * full[2]), number // full[2] % full[1], number % full[2])


def _table_row(a, b, window):
    row = 0
    for one, other, side in zip(a, b, window, strict=True):
        row = row * (2 * side - 1) + one - other + side - 1
    return row


def multi_head(q, k, v, *, heads, bias=0):
    """Compute softmax attention of ``[Q, C]`` over ``[K, C]``, head by head."""
    outs = []
    for head, (q1, k1, v1) in enumerate(
        zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True)
    ):
        logits = q1 @ k1.T / math.sqrt(q1.shape[-1])
        logits = logits + (bias if isinstance(bias, int) else bias[head])
        outs.append(logits.softmax(-1) @ v1)
    return torch.cat(outs, dim=-1)
