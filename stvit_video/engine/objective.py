"""What a training step minimises, and what else it measures of a batch."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stvit_video.data.augment.mixing import Mixing
from stvit_video.engine.accuracy import topk_correct
from stvit_video.engine.precision import Normalise

Batch = Mapping[str, Any]


class Objective(Protocol):
    """The loss of a batch."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward a batch through the model.

        Returns:
            The mean loss over the batch's samples, and other measurements by name, each summed
            over the samples; the names are the same for every batch.
        """

    def num_samples(self, batch: Batch) -> int:
        """Count the samples of a batch."""


class Classification:
    """Classification of clips; the errors, in percent, are those of the first (five) guesses.

    Args:
        normalise: uint8 video -> float video on the device.
        loss_function: (logits, labels or soft targets) -> mean loss.
        mixing: makes soft targets of labels, and mixes clips; None: the loss takes the labels.
    """

    def __init__(
        self, *, normalise: Normalise, loss_function: nn.Module, mixing: Mixing | None = None
    ) -> None:
        self.normalise = normalise
        self.loss_function = loss_function
        self.mixing = mixing

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward ``video`` [B, 3, T, H, W] with ``label`` [B]."""
        video = self.normalise(batch["video"])
        targets = batch["label"].to(video.device, non_blocking=True)
        if self.mixing is not None:
            # Seeded by the batch itself: a resumed run mixes as an uninterrupted one.
            seed = int(batch["mixing_seed"][0])
            video, targets = self.mixing(video, targets, seed=seed)
        logits = model(video)
        top1, top5 = 100.0 * (len(logits) - topk_correct(logits.detach(), targets)).double()
        return self.loss_function(logits, targets), {"top1_err": top1, "top5_err": top5}

    def num_samples(self, batch: Batch) -> int:
        """Count the clips."""
        return len(batch["label"])


class Detection:
    """Detection in images; the parts of the loss are measured too.

    Args:
        normalise: uint8 images -> float images on the device.
    """

    def __init__(self, *, normalise: Normalise) -> None:
        self.normalise = normalise

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward ``image`` [B, 3, H, W] with its ``size`` and ``target``."""
        images = normalised_images(batch, self.normalise)
        targets = [
            {name: value.to(images.device, non_blocking=True) for name, value in target.items()}
            for target in batch["target"]
        ]
        losses = model(images, batch["size"], targets)
        number = self.num_samples(batch)
        parts = {name: number * loss.detach().double() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), parts

    def num_samples(self, batch: Batch) -> int:
        """Count the images."""
        return len(batch["size"])


def normalised_images(batch: Batch, normalise: Normalise) -> Tensor:
    """Return ``image`` [B, 3, H, W] as floats, with zeros where it is padded, as models want it."""
    images = normalise(batch["image"])
    for image, (height, width) in zip(images, batch["size"], strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
