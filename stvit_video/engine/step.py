"""One training step: forward and backward passes, then one update of the weights."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stvit_video.data.augment.mixing import Mixing
from stvit_video.engine.accuracy import topk_correct
from stvit_video.engine.loss_guard import BadLossError, LossGuard
from stvit_video.engine.optim import clip_gradients, set_learning_rate
from stvit_video.engine.precision import Normalise, Precision
from stvit_video.runtime import distributed

Batch = Mapping[str, Any]


class StepResult(NamedTuple):
    """What one step of this rank measured."""

    # Mean over the step's clips.
    loss: float
    # Clips, and how many of them were right at the first and among the first five guesses.
    clips: int
    top1_correct: float
    top5_correct: float


class TrainingStep:
    """Make one step of the optimizer from one or several batches.

    Args:
        model: maps a float video [B, 3, T, H, W] to logits [B, classes]; may be wrapped in DDP.
        optimizer: with the groups of :func:`~stvit_video.engine.optim.parameter_groups`.
        scaler: loss scaler, a disabled one unless the passes run in float16.
        normalise: uint8 video -> float video on the device.
        precision: of the forward passes.
        loss_function: (logits, labels or soft targets) -> mean loss.
        guard: judges the losses.
        mixing: makes soft targets of labels, and mixes clips; None: the loss takes the labels.
        clip_value: limit of each gradient's entries; 0: none.
        clip_norm: limit of the norm of all gradients together; 0: none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler,
        normalise: Normalise,
        precision: Precision,
        loss_function: nn.Module,
        guard: LossGuard,
        mixing: Mixing | None = None,
        clip_value: float = 0.0,
        clip_norm: float = 0.0,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.normalise = normalise
        self.precision = precision
        self.loss_function = loss_function
        self.guard = guard
        self.mixing = mixing
        self.clip_value = clip_value
        self.clip_norm = clip_norm

    def __call__(self, batches: Sequence[Batch], *, lr: float) -> StepResult:
        """Accumulate the gradients of ``batches`` (of equal sizes) and update the weights once.

        Raises:
            BadLossError: on all ranks, if the loss of any is one to stop at; no weight has changed
                then.
        """
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        measured = []
        for index, batch in enumerate(batches):
            with self._gradient_exchange(is_last=index == len(batches) - 1):
                measured.append(self._forward_backward(batch, share=1 / len(batches)))
        # The only place where the CPU waits for the device, which then updates the weights while
        # the CPU waits for the next batches.
        loss, top1, top5 = torch.stack(measured).sum(dim=0).tolist()
        self._judge(loss)
        self._update()
        return StepResult(loss, sum(len(batch["label"]) for batch in batches), top1, top5)

    def _forward_backward(self, batch: Batch, *, share: float) -> Tensor:
        video = self.normalise(batch["video"])
        targets = batch["label"].to(video.device, non_blocking=True)
        if self.mixing is not None:
            # Seeded by the batch itself: a resumed run mixes as an uninterrupted one.
            seed = int(batch["mixing_seed"][0])
            video, targets = self.mixing(video, targets, seed=seed)
        with self.precision.autocast():
            logits = self.model(video)
            loss = self.loss_function(logits, targets) * share
        self.scaler.scale(loss).backward()
        return torch.cat([loss.detach().view(1), topk_correct(logits.detach(), targets)]).double()

    def _gradient_exchange(self, *, is_last: bool) -> AbstractContextManager:
        # Ranks need to average only the sum of a step's gradients, not every pass's.
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def _judge(self, loss: float) -> None:
        (sum_over_ranks,) = distributed.all_reduce_sum([loss])
        problem = self.guard.problem(sum_over_ranks / distributed.get_world_size())
        if problem:
            raise BadLossError(problem, loss=loss)

    def _update(self) -> None:
        if self.clip_value > 0 or self.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            parameters = list(self.model.parameters())
            clip_gradients(parameters, value=self.clip_value, norm=self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
