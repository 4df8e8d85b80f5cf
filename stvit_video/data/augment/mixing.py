"""Mixup (Zhang et al. 2017), CutMix (Yun et al. 2019) and label smoothing of batches of clips.

PyTorchVideo's MixVideo is not used: it draws from the global generator, so that a resumed run
would mix other clips, waits for the device to check the labels, and always mixes.

Letters: B batch, T frames, H W size, C channels, K classes.
"""

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from stvit_video.data.transforms import Box


@dataclass(frozen=True)
class Mix:
    """How the clips of a batch are mixed with each other.

    Attributes:
        share: of a clip's own label in its target; the rest is the other clip's.
        box: CutMix: the rectangle, in all frames, that comes from the other clip; None: mixup,
            pixels are mixed like labels.
    """

    share: float
    box: Box | None = None


@dataclass(frozen=True)
class Mixing:
    """Turns labels into smoothed targets, and mixes clips and targets.

    As in PySlowFast one draw holds for a batch, in which the first clip is mixed with the last
    one, the second with the last but one, and so on.

    Attributes:
        num_classes: K.
        label_smoothing: share of the target that is spread over all classes.
        probability: of mixing a batch.
        mixup_alpha: parameter of the beta distribution of mixup's shares; 0: no mixup.
        cutmix_alpha: the same of CutMix; 0: no CutMix.
        switch_probability: of CutMix, where both are possible.
    """

    num_classes: int
    _: KW_ONLY
    label_smoothing: float
    probability: float
    mixup_alpha: float
    cutmix_alpha: float
    switch_probability: float

    def __call__(self, video: Tensor, labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch in place.

        Args:
            video: float [B, C, T, H, W], on any device, normalized.
            labels: int64 [B], on the same device.
            seed: all randomness comes from it.

        Returns:
            The video, and targets [B, K], of which each row sums to 1.
        """
        height, width = video.shape[3:]
        mix = self.draw(height, width, rng=np.random.default_rng(seed))
        one_hot = F.one_hot(labels, self.num_classes).float()
        targets = one_hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if mix.share == 1:
            return video, targets
        if mix.box is None:
            video.lerp_(video.flip(0), 1 - mix.share)
        else:
            inside = mix.box.crop_video(video)
            inside.copy_(inside.flip(0))
        return video, targets.lerp(targets.flip(0), 1 - mix.share)

    def draw(self, height: int, width: int, *, rng: np.random.Generator) -> Mix:
        """Draw how a batch of frames of this size is mixed."""
        if rng.random() >= self.probability:
            return Mix(share=1.0)
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        if self.cutmix_alpha > 0 and (not both or rng.random() < self.switch_probability):
            return _draw_cutmix(self.cutmix_alpha, height, width, rng=rng)
        return Mix(share=rng.beta(self.mixup_alpha, self.mixup_alpha))


def _draw_cutmix(alpha: float, height: int, width: int, *, rng: np.random.Generator) -> Mix:
    """Draw a rectangle of the frame's aspect ratio around any pixel; the frame cuts it off."""
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(0, y - half_height), max(0, x - half_width)
    bottom, right = min(height, y + half_height), min(width, x + half_width)
    box = Box(top, left, bottom - top, right - left)
    return Mix(share=1 - box.height * box.width / (height * width), box=box)
