"""Random erasing (Zhong et al. 2017) of clips.

Shapes: C channels, T frames, H x W frame size, h x w rectangle size.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from stvit_video.data.transforms import Box, bernoulli, draw_box, randint

# Range of the erased share of the frame, and of the rectangle's width / height.
_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class RandomErasing:
    """Fills rectangles, at the same place in all frames, with noise or a color.

    It works on uint8 clips in the worker, so a clip depends on its own random numbers alone, and
    a quarter of the bytes is copied to the device. The noise is the same that PySlowFast and timm
    put into normalized clips: normally distributed with the data's mean and standard deviation,
    clamped to the range of pixels.

    Attributes:
        probability: of erasing anything in a clip.
        mode: "pixel": noise that differs in each frame; "rand": a random color for each rectangle;
            "const": the mean color.
        max_count: from 1 to this many rectangles, which share the area among them.
        mean: of each channel, of pixels in [0, 1].
        std: standard deviation of each channel, of pixels in [0, 1].
    """

    probability: float
    _: KW_ONLY
    mode: str
    max_count: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, video: Tensor, *, generator: torch.Generator) -> Tensor:
        """Erase rectangles of a clip, uint8 [C, T, H, W], with random numbers of ``generator``."""
        boxes = self.draw(video.shape[2], video.shape[3], generator=generator)
        if boxes:
            video = video.clone()
        for box in boxes:
            erased = box.crop_video(video)
            erased.copy_(self._fill(erased.shape, generator=generator))
        return video

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> list[Box]:
        """Draw the rectangles of a clip, which may overlap."""
        if not bernoulli(self.probability, generator=generator):
            return []
        count = 1 + randint(self.max_count, generator=generator)
        area = (_AREA[0] / count, _AREA[1] / count)
        boxes = [
            draw_box(height, width, area=area, aspect=_ASPECT, generator=generator)
            for _ in range(count)
        ]
        return [box for box in boxes if box is not None]

    def _fill(self, shape: Sequence[int], *, generator: torch.Generator) -> Tensor:
        """Draw uint8 values that broadcast to a rectangle's [C, T, h, w]."""
        size = shape if self.mode == "pixel" else (shape[0], 1, 1, 1)
        noise = torch.randn(size, generator=generator)
        if self.mode == "const":
            noise.zero_()
        mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (self.mean, self.std))
        return noise.mul_(std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
