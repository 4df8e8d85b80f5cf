"""One training step: forward and backward passes, then one update of the weights."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stvit_video.data.augment.mixing import Mixing
from stvit_video.engine.metrics import StepResult, topk_correct
from stvit_video.engine.optim import clip_gradients, set_learning_rate
from stvit_video.engine.precision import Normalize, Precision
from stvit_video.engine.state import BadLossError, LossGuard
from stvit_video.runtime import distributed

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
        normalize: uint8 video -> float video on the device.
        loss_function: (logits, labels or soft targets) -> mean loss.
        mixing: makes soft targets of labels, and mixes clips; None: the loss takes the labels.
    """

    def __init__(
        self, *, normalize: Normalize, loss_function: nn.Module, mixing: Mixing | None = None
    ) -> None:
        self.normalize = normalize
        self.loss_function = loss_function
        self.mixing = mixing

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward ``video`` [B, 3, T, H, W] with ``label`` [B]."""
        video = self.normalize(batch["video"])
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
        normalize: uint8 images -> float images on the device.
    """

    def __init__(self, *, normalize: Normalize) -> None:
        self.normalize = normalize

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward ``image`` [B, 3, H, W] with its ``size`` and ``target``."""
        images = normalized_images(batch, self.normalize)
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


def normalized_images(batch: Batch, normalize: Normalize) -> Tensor:
    """Return ``image`` [B, 3, H, W] as floats, with zeros where it is padded, as models want it."""
    images = normalize(batch["image"])
    for image, (height, width) in zip(images, batch["size"], strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


# Of float16; where it is lower, the gradient is not finite for other reasons than its width (the
# limit is fairseq's).
_LEAST_LOSS_SCALE = 1e-4


class TrainingStep:
    """Make one step of the optimizer from one or several batches.

    Args:
        model: may be wrapped in DDP.
        optimizer: with the groups of :func:`~stvit_video.engine.optim.parameter_groups`.
        objective: forwards a batch through the model, and gives the loss.
        scaler: loss scaler, a disabled one unless the passes run in float16.
        precision: of the forward passes.
        guard: judges the losses.
        clip_value: limit of each gradient's entries; 0: none.
        clip_norm: limit of the norm of all gradients together; 0: none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        precision: Precision,
        guard: LossGuard,
        clip_value: float = 0.0,
        clip_norm: float = 0.0,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.scaler = scaler
        self.precision = precision
        self.guard = guard
        self.clip_value = clip_value
        self.clip_norm = clip_norm
        # What forward passes change: the running statistics of batch norms.
        self._statistics = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]

    def __call__(self, batches: Sequence[Batch], *, lr: float) -> StepResult:
        """Accumulate the gradients of ``batches`` (of equal sizes) and update the weights once.

        Raises:
            BadLossError: on all ranks, if their mean loss or the gradient is one to stop at;
                neither a weight nor a running statistic has changed then.
        """
        statistics = [(each, each.clone()) for each in self._statistics]
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        passes = []
        for index, batch in enumerate(batches):
            with self._gradient_exchange(is_last=index == len(batches) - 1):
                passes.append(self._forward_backward(batch, share=1 / len(batches)))
        norm = self._gradient_norm()
        # Only here the CPU waits for the device, which then updates the weights while the CPU waits
        # for the next batches.
        values = torch.stack([torch.stack(list(each.values())) for each in passes])
        measured = dict(zip(passes[0], values.sum(dim=0).tolist(), strict=True))
        loss = measured.pop("loss")
        try:
            self._judge(loss, gradient_norm=0.0 if norm is None else norm.item())
        except BadLossError:
            for each, before in statistics:
                each.copy_(before)
            raise
        self._update(norm)
        clips = sum(self.objective.num_samples(batch) for batch in batches)
        return StepResult(loss, clips, measured)

    def _forward_backward(self, batch: Batch, *, share: float) -> dict[str, Tensor]:
        with self.precision.autocast():
            loss, measured = self.objective(self.model, batch)
            loss = loss * share
        self.scaler.scale(loss).backward()
        return {"loss": loss.detach().double(), **measured}

    def _gradient_exchange(self, *, is_last: bool) -> AbstractContextManager:
        # Ranks need to average only the sum of a step's gradients, not every pass's.
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def _gradient_norm(self) -> Tensor | None:
        """The norm of all gradients, which ranks have averaged; None where they are scaled."""
        if self.scaler.is_enabled():
            return None
        gradients = (each.grad for each in self.model.parameters())
        return nn.utils.get_total_norm([each for each in gradients if each is not None])

    def _judge(self, loss: float, *, gradient_norm: float) -> None:
        (sum_over_ranks,) = distributed.all_reduce_sum([loss])
        problem = self.guard.problem(sum_over_ranks / distributed.get_world_size())
        if problem:
            raise BadLossError(problem, loss=loss)
        if not isfinite(gradient_norm):
            problem = f"the gradient's norm became {gradient_norm}"
        elif self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_LOSS_SCALE:
            problem = (
                "the gradient was not finite in so many steps, which were left out, that the loss "
                f"scale fell to {self.scaler.get_scale():.2g}"
            )
        if problem:
            raise BadLossError(problem, loss=loss, is_of_gradient=True)

    def _update(self, gradient_norm: Tensor | None) -> None:
        if self.clip_value > 0 or self.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            parameters = list(self.model.parameters())
            clip_gradients(
                parameters,
                value=self.clip_value,
                norm=self.clip_norm,
                present_norm=gradient_norm,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
