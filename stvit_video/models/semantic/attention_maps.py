"""Attention maps of the token generation layers (paper, Figure 3).

Notation: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; e heads,
d channels of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stvit_video.models.semantic.key_windows import QueryKeySpans
from stvit_video.models.semantic.released import PaddedKeyWindows
from stvit_video.models.semantic.stgm import SemanticTokenGeneration, SemanticTokenLayer


@torch.no_grad()
def attention_maps(
    layer: SemanticTokenLayer,
    tokens: Tensor,
    image_tokens: Tensor,
    global_centers: Tensor | None = None,
) -> Tensor:
    """Recompute the attention of each semantic token to the image tokens.

    Args:
        layer: a layer of a generation module, without padding (STVIT.BORDER ``released*``).
        tokens: semantic tokens that its forward was given, ``[N, h, w, C]``.
        image_tokens: ``[N, H, W, C]``.
        global_centers: ``[h, w, C]`` or None.

    Returns:
        mean over the heads, ``[N, h, w, H, W]``; zero outside of a token's key window. A sum below
        1 leaves the rest to semantic tokens.
    """
    assert not isinstance(layer.key_windows, PaddedKeyWindows), "keys are on a padded grid"
    attn, heads = layer.attn, layer.attn.num_heads
    centered = tokens if global_centers is None else tokens + global_centers
    q = attn.project_queries(layer.norm1(centered)).unflatten(-1, (heads, -1))
    key_grids = [image_tokens]
    if layer.semantic_keys:
        key_grids.insert(0, centered if layer.centers_role == "keys" else tokens)
    rows, columns = layer.query_key_spans(tokens, image_tokens)
    logits = []
    for index, grid in enumerate(key_grids):
        keys = attn.project_keys(layer.norm1(grid)).unflatten(-1, (heads, -1))
        scores = torch.einsum("nhwed,nHWed->nehwHW", q * q.shape[-1] ** -0.5, keys)
        visible_rows, visible_columns = (
            _visible_keys(axis, index, size)
            for axis, size in zip((rows, columns), grid.shape[1:3], strict=True)
        )
        visible = visible_rows[:, None, :, None] & visible_columns[None, :, None, :]
        logits.append(scores.masked_fill(~visible.to(q.device), float("-inf")).flatten(4))
    height, width = image_tokens.shape[1:3]
    weights = torch.cat(logits, dim=-1).softmax(-1).mean(1)
    return weights[..., -height * width :].unflatten(-1, (height, width))


def _visible_keys(windows: Sequence[QueryKeySpans], grid: int, size: int) -> Tensor:
    """Return which keys of a grid each query of an axis sees: bool ``[queries, size]``."""
    visible = torch.zeros(windows[-1].queries.stop, size, dtype=torch.bool)
    for queries, keys in windows:
        visible[queries.start : queries.stop, keys[grid].start : keys[grid].stop] = True
    return visible


@contextmanager
def record_attention_maps(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention maps of each generation layer while the model runs.

    Yields:
        a list to which a forward pass appends the :func:`attention_maps` of each layer, with
        frames folded into N.
    """
    maps: list[Tensor] = []

    def record(layer: SemanticTokenLayer, inputs: tuple, output: Tensor) -> None:
        maps.append(attention_maps(layer, *inputs))

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
