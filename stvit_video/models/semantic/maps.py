"""What semantic tokens look at: the attention maps of the generation layers (paper, Figure 3).

Letters: N frames, H W grid of image tokens, h w grid of semantic tokens, C channels; h also heads
where a shape says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .reach import CentredReach
from .regions import key_ranges
from .stgm import SemanticTokenGeneration, SemanticTokenLayer


@torch.no_grad()
def attention_maps(
    layer: SemanticTokenLayer,
    semantic_tokens: Tensor,
    image_tokens: Tensor,
    queries: Tensor | None = None,
) -> Tensor:
    """Recompute how a generation layer spreads each semantic token's attention over the image.

    Args:
        layer: a layer of a generation module.
        semantic_tokens: what its forward was given, ``[N, h, w, C]``.
        image_tokens: ``[N, H, W, C]``.
        queries: ``[N, h, w, C]`` or None.

    Returns:
        mean over the heads, ``[N, h, w, H, W]``; zero outside of a token's key window. What is
        missing to a sum of 1 went to semantic tokens.
    """
    attn, heads = layer.attn, layer.attn.num_heads
    x = layer.norm1(semantic_tokens if queries is None else queries)
    q = attn.project_queries(x).unflatten(-1, (heads, -1))  # [N, h, w, heads, d]
    image_keys, semantic_keys = (
        attn.project_keys_values(layer.norm1(tokens)).chunk(2, dim=-1)[0].unflatten(-1, (heads, -1))
        for tokens in (image_tokens, semantic_tokens)
    )
    scale = q.shape[-1] ** -0.5
    image_logits = torch.einsum("nhwed,nHWed->nehwHW", q * scale, image_keys)
    semantic_logits = torch.einsum("nhwed,nHWed->nehwHW", q * scale, semantic_keys)
    image_reach, semantic_reach = _reach(layer, image_tokens.shape[1:3])
    logits = torch.cat(
        [
            image_logits.masked_fill(~image_reach.to(q.device), float("-inf")).flatten(4),
            semantic_logits.masked_fill(~semantic_reach.to(q.device), float("-inf")).flatten(4),
        ],
        dim=-1,
    )
    height, width = image_tokens.shape[1:3]
    weights = logits.softmax(-1).mean(1)[..., : height * width]
    return weights.unflatten(-1, (height, width))


def _reach(layer: SemanticTokenLayer, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Which image and which semantic tokens each semantic token sees: bool ``[h, w, H, W]``."""
    (image_rows, semantic_rows), (image_columns, semantic_columns) = (
        _reach_along(layer, length) for length in size
    )
    return (
        image_rows[:, None, :, None] & image_columns[None, :, None, :],
        semantic_rows[:, None, :, None] & semantic_columns[None, :, None, :],
    )


def _reach_along(layer: SemanticTokenLayer, length: int) -> tuple[Tensor, Tensor]:
    """Do the same along one axis: bool ``[h, H]`` and ``[h, h]``."""
    tokens = len(layer.windows.regions(length))
    image = torch.zeros(tokens, length, dtype=torch.bool)
    semantic = torch.zeros(tokens, tokens, dtype=torch.bool)
    if isinstance(layer.reach, CentredReach):
        for own, keys in layer.reach.window.spans(tokens, length):
            image[own.start : own.stop, keys.start : keys.stop] = True
        return image, semantic
    ranges = key_ranges(layer.windows, size=length, key_window=layer.key_window)
    for token in range(tokens):
        window = token // ranges.queries
        start = ranges.image_starts[window]
        image[token, start : start + ranges.image_length] = True
        start = ranges.semantic_starts[window]
        semantic[token, start : start + ranges.semantic_length] = layer.semantic_keys
    return image, semantic


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
        for layer in module.layers
    ]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
