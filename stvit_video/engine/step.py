"""Training objectives, and the training step with gradient accumulation."""

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

# Smallest loss scale of float16 training (fairseq's limit). If the scale falls below it, the
# gradient is not finite for other reasons than the range of float16.
_MIN_LOSS_SCALE = 1e-4


class Objective(Protocol):
    """Training objective: computes the loss of a batch."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the forward pass of a batch.

        Returns:
            The mean loss over the samples, and further measurements by name, each summed over the
            samples. The names are the same for every batch.
        """

    def num_samples(self, batch: Batch) -> int:
        """Return the number of samples in a batch."""


class Classification:
    """Classification of clips, measured by the top-1 and top-5 errors in percent.

    Args:
        normalize: uint8 video -> float video on the device.
        loss_function: (logits, labels or soft targets) -> mean loss.
        mixing: mixes clips and turns labels into soft targets; None uses clips and labels as they
            are.
    """

    def __init__(
        self, *, normalize: Normalize, loss_function: nn.Module, mixing: Mixing | None = None
    ) -> None:
        self.normalize = normalize
        self.loss_function = loss_function
        self.mixing = mixing

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the forward pass of ``video`` [B, 3, T, H, W] with ``label`` [B]."""
        video = self.normalize(batch["video"])
        targets = batch["label"].to(video.device, non_blocking=True)
        if self.mixing is not None:
            # The seed is part of the batch, so a resumed run mixes like an uninterrupted one.
            seed = int(batch["mixing_seed"][0])
            video, targets = self.mixing(video, targets, seed=seed)
        logits = model(video)
        top1, top5 = 100.0 * (len(logits) - topk_correct(logits.detach(), targets)).double()
        return self.loss_function(logits, targets), {"top1_err": top1, "top5_err": top5}

    def num_samples(self, batch: Batch) -> int:
        """Return the number of clips."""
        return len(batch["label"])


class Detection:
    """Detection in images, measured by the terms of the loss.

    Args:
        normalize: uint8 images -> float images on the device.
    """

    def __init__(self, *, normalize: Normalize) -> None:
        self.normalize = normalize

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the forward pass of ``image`` [B, 3, H, W] with ``size`` and ``target``."""
        images = normalized_images(batch, self.normalize)
        targets = [
            {name: value.to(images.device, non_blocking=True) for name, value in target.items()}
            for target in batch["target"]
        ]
        losses = model(images, batch["size"], targets)
        num_images = self.num_samples(batch)
        terms = {name: num_images * loss.detach().double() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), terms

    def num_samples(self, batch: Batch) -> int:
        """Return the number of images."""
        return len(batch["size"])


def normalized_images(batch: Batch, normalize: Normalize) -> Tensor:
    """Return ``image`` [B, 3, H, W] normalized, with zeros in the padding as models expect."""
    images = normalize(batch["image"])
    for image, (height, width) in zip(images, batch["size"], strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


class TrainingStep:
    """Make one optimizer step from one or several batches.

    Args:
        model: model to train, which may be wrapped in DDP.
        optimizer: optimizer with groups of :func:`~stvit_video.engine.optim.parameter_groups`.
        objective: computes the loss of a batch.
        scaler: loss scaler, disabled unless training runs in float16.
        precision: precision of the forward passes.
        guard: detects bad losses.
        clip_value: largest absolute value of a gradient's entries; 0 disables this.
        clip_norm: largest L2 norm of all gradients together; 0 disables this.
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
        # Forward passes change the running statistics of batch norms.
        self._statistics = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]

    def __call__(self, batches: Sequence[Batch], *, lr: float) -> StepResult:
        """Accumulate the gradients of ``batches`` (of equal sizes) and update the weights once.

        Raises:
            BadLossError: on all ranks, if their mean loss or the gradient is bad. Weights and
                running statistics are then unchanged.
        """
        saved_statistics = [buffer.clone() for buffer in self._statistics]
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        results = []
        for index, batch in enumerate(batches):
            with self._gradient_sync(is_last=index == len(batches) - 1):
                results.append(self._forward_backward(batch, share=1 / len(batches)))
        total_norm = self._gradient_norm()
        # The CPU synchronizes with the device only here. The device then updates the weights while
        # the CPU waits for the next batches.
        values = torch.stack([torch.stack(list(result.values())) for result in results])
        measured = dict(zip(results[0], values.sum(dim=0).tolist(), strict=True))
        loss = measured.pop("loss")
        try:
            self._check(loss, gradient_norm=0.0 if total_norm is None else total_norm.item())
        except BadLossError:
            for buffer, saved in zip(self._statistics, saved_statistics, strict=True):
                buffer.copy_(saved)
            raise
        self._update(total_norm)
        clips = sum(self.objective.num_samples(batch) for batch in batches)
        return StepResult(loss, clips, measured)

    def _forward_backward(self, batch: Batch, *, share: float) -> dict[str, Tensor]:
        with self.precision.autocast():
            loss, measured = self.objective(self.model, batch)
            loss = loss * share
        self.scaler.scale(loss).backward()
        return {"loss": loss.detach().double(), **measured}

    def _gradient_sync(self, *, is_last: bool) -> AbstractContextManager:
        # Average the gradients over the ranks once per step, not in every backward pass.
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def _gradient_norm(self) -> Tensor | None:
        """Return the norm of all gradients, or None if they are multiplied by a loss scale."""
        if self.scaler.is_enabled():
            return None
        gradients = (parameter.grad for parameter in self.model.parameters())
        return nn.utils.get_total_norm([grad for grad in gradients if grad is not None])

    def _check(self, loss: float, *, gradient_norm: float) -> None:
        (loss_sum,) = distributed.all_reduce_sum([loss])
        problem = self.guard.check(loss_sum / distributed.get_world_size())
        if problem:
            raise BadLossError(problem, loss=loss)
        if not isfinite(gradient_norm):
            problem = f"the gradient's norm became {gradient_norm}"
        elif self.scaler.is_enabled() and self.scaler.get_scale() < _MIN_LOSS_SCALE:
            problem = (
                "so many steps with a gradient that was not finite were skipped that the loss "
                f"scale fell to {self.scaler.get_scale():.2g}"
            )
        if problem:
            raise BadLossError(problem, loss=loss, from_gradient=True)

    def _update(self, total_norm: Tensor | None) -> None:
        if self.clip_value > 0 or self.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(
                list(self.model.parameters()),
                value=self.clip_value,
                norm=self.clip_norm,
                total_norm=total_norm,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
