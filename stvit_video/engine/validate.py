"""Validate a classifier during training, on one clip of each video."""

import torch
from torch import nn

from stvit_video.data.bad_videos import report_unread
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.metrics import error_percent, topk_correct
from stvit_video.engine.precision import Normalize, Precision
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import (
    ShouldStop,
    broadcast_running_statistics,
    never,
    on_any_rank,
    until,
)
from stvit_video.runtime.logging import progress


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: VideoLoader,
    *,
    normalize: Normalize,
    precision: Precision,
    loss_function: nn.Module,
    should_stop: ShouldStop = never,
) -> dict[str, float] | None:
    """Compute the mean loss and the errors in percent; every rank must call this.

    Ranks may have different numbers of batches and batches of different sizes, because they only
    exchange sums at the end. The model must therefore not be wrapped in DDP. Unreadable videos
    are left out and reported in the log.

    Args:
        model: model to validate, whose training or evaluation mode is restored afterwards. Its
            running statistics, if any, are set to those of rank 0.
        loader: this rank's share of the clips.
        normalize: uint8 video -> float video on the device.
        precision: precision of the forward passes.
        loss_function: (logits, labels) -> mean loss.
        should_stop: called after every batch; returns whether to stop.

    Returns:
        ``loss``, ``top1_err`` and ``top5_err`` over the clips of all ranks and the number of clips,
        ``num_videos``; or None on all ranks if any of them was asked to stop.

    Raises:
        UserError: too many videos are unreadable, or all are.
    """
    broadcast_running_statistics(model)
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=normalize.device)
    clips = 0
    batches = until(loader, should_stop)
    for batch in progress(batches, total=len(loader), description="validation"):
        video = normalize(batch["video"])
        labels = batch["label"].to(video.device, non_blocking=True)
        with precision.autocast():
            logits = model(video)
            loss_sum = loss_function(logits, labels) * len(labels)
        sums += torch.cat([loss_sum.view(1), topk_correct(logits, labels)])
        clips += len(labels)
    model.train(was_training)
    loader.bad_video_log.share()
    if on_any_rank(should_stop)():
        return None
    all_clips, all_loss, top1, top5 = distributed.all_reduce_sum([clips, *sums.tolist()])
    report_unread("Validation", "video", read=int(all_clips), expected=len(loader.dataset))
    return {
        "loss": all_loss / all_clips,
        "top1_err": error_percent(top1, all_clips),
        "top5_err": error_percent(top5, all_clips),
        "num_videos": int(all_clips),
    }
