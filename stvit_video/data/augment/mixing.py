"""Mixup (Zhang et al. 2017), CutMix (Yun et al. 2019) and label smoothing of batches of clips.

PyTorchVideo's MixVideo is not used: it draws from the global generator, so a resumed run would mix
differently, it waits for the device to check the labels, and it mixes every batch.

Shapes: B batch size, C channels, T frames, H x W frame size, K classes.
"""

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from stvit_video.data.transforms import Box


@dataclass(frozen=True)
class Mix:
    """The random parameters of mixing one batch.

    Attributes:
        lam: weight of a clip's own label in its target; the other clip's label gets the rest.
        box: CutMix: the rectangle, in all frames, taken from the other clip; None: mixup, which
            mixes pixels like labels.
    """

    lam: float
    box: Box | None = None


@dataclass(frozen=True)
class Mixing:
    """Converts labels to smoothed targets, and mixes clips and targets.

    As in PySlowFast, all clips of a batch share one draw, and the batch is mixed with itself in
    reverse order: the first clip with the last one, the second with the second to last.

    Attributes:
        num_classes: K.
        label_smoothing: share of the target that is spread over all classes.
        probability: of mixing a batch.
        mixup_alpha: parameter of mixup's beta distribution; 0 disables mixup.
        cutmix_alpha: parameter of CutMix's beta distribution; 0 disables CutMix.
        switch_probability: of CutMix, if both are enabled.
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
            seed: source of all randomness.

        Returns:
            The video, and targets [B, K] whose rows sum to 1.
        """
        height, width = video.shape[3:]
        mix = self.draw(height, width, rng=np.random.default_rng(seed))
        one_hot = F.one_hot(labels, self.num_classes).float()
        targets = one_hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if mix.lam == 1:
            return video, targets
        if mix.box is None:
            video.lerp_(video.flip(0), 1 - mix.lam)
        else:
            inside = mix.box.crop_video(video)
            inside.copy_(inside.flip(0))
        return video, targets.lerp(targets.flip(0), 1 - mix.lam)

    def draw(self, height: int, width: int, *, rng: np.random.Generator) -> Mix:
        """Draw how a batch with frames of this size is mixed."""
        if rng.random() >= self.probability:
            return Mix(lam=1.0)
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        if self.cutmix_alpha > 0 and (not both or rng.random() < self.switch_probability):
            return _draw_cutmix(self.cutmix_alpha, height, width, rng=rng)
        return Mix(lam=rng.beta(self.mixup_alpha, self.mixup_alpha))


def _draw_cutmix(alpha: float, height: int, width: int, *, rng: np.random.Generator) -> Mix:
    """Draw a rectangle with the frame's aspect ratio around any pixel, clipped to the frame."""
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(0, y - half_height), max(0, x - half_width)
    bottom, right = min(height, y + half_height), min(width, x + half_width)
    box = Box(top, left, bottom - top, right - left)
    return Mix(lam=1 - box.height * box.width / (height * width), box=box)
