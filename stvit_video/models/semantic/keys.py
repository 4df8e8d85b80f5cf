"""Gathering the keys of each window of a frame: image tokens around it, and semantic tokens.

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; M windows of
a frame, K keys of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .regions import KeyRanges

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class KeyPlan:
    """Which tokens of a frame are the keys of its windows.

    The tokens of a frame stand in one row: semantic tokens, if they are keys, then image tokens.

    Attributes:
        windows: of a frame, M.
        tokens: the token at each place, int64 ``[M K]``.
        places: where each token was put, int64 ``[tokens, most copies of any]``; M K stands for
            nowhere.
    """

    windows: int
    tokens: Tensor
    places: Tensor


# A compiled graph would make the plan anew each time.
@torch.compiler.disable
@lru_cache(maxsize=32)
def plan_keys(
    rows: KeyRanges,
    columns: KeyRanges,
    *,
    semantic: Grid | None,
    image: Grid,
    device: torch.device,
) -> KeyPlan | None:
    """Plan the keys of each window; None where they are all tokens, as they stand.

    Args:
        rows: keys of the windows along rows.
        columns: the same along columns.
        semantic: (h, w); None if semantic tokens are no keys.
        image: (H, W).
        device: where the plan is needed.
    """
    if (rows.image_length, columns.image_length) == image:
        return None
    # A plan made inside inference_mode must serve training later.
    with torch.inference_mode(False):
        pieces = [_windows(image, rows.image, columns.image)]
        first = 0
        if semantic is not None:
            first = semantic[0] * semantic[1]
            pieces = [_windows(semantic, rows.semantic, columns.semantic), pieces[0] + first]
        tokens = torch.cat(pieces, dim=1)
        return KeyPlan(
            windows=len(tokens),
            tokens=tokens.flatten().to(device),
            places=_places(tokens.flatten(), count=first + image[0] * image[1]).to(device),
        )


def gather_keys(x: Tensor, plan: KeyPlan | None) -> Tensor:
    """Gather the tokens ``[N, tokens, C]`` of each frame into windows ``[N M, K, C]``."""
    if plan is None:
        return x
    if torch.is_grad_enabled():
        gathered = _Gather.apply(x, plan.tokens, plan.places)
    else:
        # Whole rows of a matrix are copied faster than those of each frame.
        starts = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
        gathered = x.flatten(0, 1).index_select(0, (starts + plan.tokens).flatten())
    return gathered.view(len(x) * plan.windows, -1, x.shape[2])


class _Gather(torch.autograd.Function):
    """Tokens at their places; the gradients of copies are added in a fixed order.

    That of an index is added by whichever thread comes first, so training would not repeat.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(1, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        grad = torch.cat([grad, grad.new_zeros(len(grad), 1, grad.shape[2])], dim=1)
        total = grad.index_select(1, places[:, 0])
        for copy in places[:, 1:].unbind(1):
            total += grad.index_select(1, copy)
        return total, None, None


def _windows(
    grid: Grid, rows: tuple[Sequence[int], int], columns: tuple[Sequence[int], int]
) -> Tensor:
    """Number the tokens of a grid, and give those of each window: int64 ``[M, tokens]``."""
    (tops, height), (lefts, width) = rows, columns
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    return torch.stack(
        [
            numbers[top : top + height, left : left + width].flatten()
            for top in tops
            for left in lefts
        ]
    )


def _places(tokens: Tensor, *, count: int) -> Tensor:
    order = tokens.argsort(stable=True)
    # Windows of keys may be smaller than those of queries, and leave out the last tokens too.
    counts = torch.bincount(tokens, minlength=count)
    places = torch.full((len(counts), int(counts.max())), len(tokens))
    copies = torch.arange(places.shape[1]) < counts[:, None]
    places[copies] = order
    return places
