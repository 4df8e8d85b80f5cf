"""What semantic tokens look at: the attention maps of the generation layers (paper, Figure 3).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; e heads, d
channels of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import Window
from stvit_video.models.semantic.released import PaddedKeyWindows
from stvit_video.models.semantic.stgm import SemanticTokenGeneration, SemanticTokenLayer


@torch.no_grad()
def attention_maps(
    layer: SemanticTokenLayer,
    tokens: Tensor,
    image_tokens: Tensor,
    global_centers: Tensor | None = None,
) -> Tensor:
    """Recompute how a generation layer spreads each semantic token's attention over the image.

    Args:
        layer: a layer of a generation module, not one that sees padding (STVIT.BORDER
            ``released*``).
        tokens: what its forward was given, ``[N, h, w, C]``.
        image_tokens: ``[N, H, W, C]``.
        global_centers: ``[h, w, C]`` or None.

    Returns:
        mean over the heads, ``[N, h, w, H, W]``; zero outside of a token's key window. What is
        missing to a sum of 1 went to semantic tokens.
    """
    assert not isinstance(layer.key_windows, PaddedKeyWindows), "its keys are on another grid"
    attn, heads = layer.attn, layer.attn.num_heads
    centered = tokens if global_centers is None else tokens + global_centers
    q = attn.project_queries(layer.norm1(centered)).unflatten(-1, (heads, -1))
    grids = [image_tokens]
    if layer.semantic_keys:
        grids.insert(0, centered if layer.centers_role == "keys" else tokens)
    rows, columns = layer.windows(tokens, image_tokens)
    logits = []
    for place, grid in enumerate(grids):
        keys = attn.project_keys(layer.norm1(grid)).unflatten(-1, (heads, -1))
        scores = torch.einsum("nhwed,nHWed->nehwHW", q * q.shape[-1] ** -0.5, keys)
        sees_rows, sees_columns = (
            _sees(axis, place, size)
            for axis, size in zip((rows, columns), grid.shape[1:3], strict=True)
        )
        sees = sees_rows[:, None, :, None] & sees_columns[None, :, None, :]
        logits.append(scores.masked_fill(~sees.to(q.device), float("-inf")).flatten(4))
    height, width = image_tokens.shape[1:3]
    weights = torch.cat(logits, dim=-1).softmax(-1).mean(1)
    return weights[..., -height * width :].unflatten(-1, (height, width))


def _sees(windows: Sequence[Window], place: int, size: int) -> Tensor:
    """Say which keys of one grid each query of an axis sees: bool ``[queries, size]``."""
    sees = torch.zeros(windows[-1].queries.stop, size, dtype=torch.bool)
    for queries, keys in windows:
        sees[queries.start : queries.stop, keys[place].start : keys[place].stop] = True
    return sees


@contextmanager
def record_attention_maps(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the maps of each generation layer while the model runs.

    Yields:
        a list to which a forward pass appends, layer by layer, what
        :func:`attention_maps` gives; frames are folded into N.
    """
    maps: list[Tensor] = []

    def record(layer: SemanticTokenLayer, arguments: tuple, output: Tensor) -> None:
        maps.append(attention_maps(layer, *arguments))

    layers = [
        layer
        for module in model.modules()
        if isinstance(module, SemanticTokenGeneration)
        for layer in (module.first, module.second, *module.further)
    ]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
