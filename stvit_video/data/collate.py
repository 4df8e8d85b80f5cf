"""Samples to a batch, with as little moving of pixels as possible."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

# Of [..., C, T, H, W], in which pixels lie in memory as [..., T, H, W, C]: the decoder's order.
_CHANNELS, _LAST = -4, -1


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples as `default_collate` does, but leave the pixels in their order in memory.

    The result is the same to the last bit. Only, to change the order of uint8 pixels takes several
    times as long as to copy them; it is left to the device, where it comes with the conversion to
    floats. Samples without a video, as those of a check, are stacked as they are.
    """
    if "video" not in samples[0]:
        return default_collate(list(samples))
    in_memory_order = [
        {**sample, "video": sample["video"].movedim(_CHANNELS, _LAST)} for sample in samples
    ]
    batch = default_collate(in_memory_order)
    batch["video"] = batch["video"].movedim(_LAST, _CHANNELS)
    return batch
