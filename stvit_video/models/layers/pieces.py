"""Working through rows piece by piece, where a CPU's cache would not hold all at once."""

from collections.abc import Callable

import torch
from torch import Tensor

# Numbers that may be made on the way for one piece: 8 MiB of float32.
_NUMBERS = 1 << 21


def rows_of_a_piece(rows: int, *, device: torch.device, numbers: int) -> int:
    """Give how many of ``rows`` independent rows to work on at once.

    On a CPU large intermediates cost more than arithmetic: they leave the cache, and the C library
    gives large blocks back to the kernel, which hands them out again page by page. A GPU wants few
    large kernels, and for a backward pass the intermediates are kept anyway.

    Args:
        rows: of the whole.
        device: where the work is done.
        numbers: that the work makes on the way for each row.
    """
    if torch.is_grad_enabled() or device.type != "cpu":
        return rows
    return max(1, min(rows, _NUMBERS // numbers))


def by_pieces(work: Callable[[Tensor], Tensor], x: Tensor, *, numbers: int) -> Tensor:
    """Apply ``work``, which treats all ``[..., C]`` independently and keeps their shape.

    Args:
        work: maps ``[..., C]`` to ``[..., C]``.
        x: ``[..., C]``, which nothing else needs: where it is worked through in pieces, each
            result takes the place of its piece.
        numbers: that ``work`` makes on the way for each of them.
    """
    count = x.shape[:-1].numel()
    size = rows_of_a_piece(count, device=x.device, numbers=numbers)
    if size == count:
        return work(x)
    rows = x.reshape(count, -1)
    for start in range(0, count, size):
        rows[start : start + size] = work(rows[start : start + size])
    return rows.view(x.shape)
