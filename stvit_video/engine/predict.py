"""Prediction: the scores of whole videos from the views that a loader yields."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.data.loader import VideoLoader
from stvit_video.engine.meters import duration, memory
from stvit_video.engine.precision import Normalise, Precision, build_normalise, build_precision
from stvit_video.engine.predictions import Predictions
from stvit_video.engine.views import ENSEMBLES, HEAD_ACTIVATIONS, ensemble_by_clips
from stvit_video.errors import UserError
from stvit_video.runtime.distributed import ShouldStop, never, until
from stvit_video.runtime.logging import log_json_stats, progress


class ViewPredictor:
    """Score videos by all of their views.

    Args:
        model: maps float views [B, 3, T, H, W] to logits [B, K]; in evaluation mode.
        num_clips: clips V of every video; the views of one clip are its crops.
        max_views: views forwarded at once, which bounds the memory.
        normalise: uint8 views -> float views on the device.
        precision: of the forward passes.
        activation: what turns logits into scores, a name in ``HEAD_ACTIVATIONS``.
        ensemble: what turns views' scores into the video's, a name in ``ENSEMBLES``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_clips: int,
        max_views: int,
        normalise: Normalise,
        precision: Precision,
        activation: str = "softmax",
        ensemble: str = "sum",
    ) -> None:
        self.model = model
        self.num_clips = num_clips
        self.max_views = max_views
        self.normalise = normalise
        self.precision = precision
        self.activation = HEAD_ACTIVATIONS[activation]
        self.ensemble = ENSEMBLES[ensemble]

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Score a batch of videos.

        Args:
            videos: uint8 [N, V * C, 3, T, H, W], view index = clip * C + crop.

        Returns:
            float64 [N, V, K] on the CPU: row k - 1 of a video is made of k clips, the last of all.
        """
        views = videos.flatten(0, 1)
        scores = torch.cat([self._score(part) for part in views.split(self.max_views)])
        return torch.stack(
            [
                ensemble_by_clips(video, num_clips=self.num_clips, method=self.ensemble)
                for video in scores.unflatten(0, videos.shape[:2])
            ]
        )

    def _score(self, views: Tensor) -> Tensor:
        with self.precision.autocast():
            logits = self.model(self.normalise(views))
        # In float64, where the order of the sum over views does not show.
        return self.activation(logits.double()).cpu()


def build_predictor(cfg: CfgNode, model: nn.Module, device: torch.device) -> ViewPredictor:
    """Build what scores videos in the test of a classifier."""
    return ViewPredictor(
        model,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        max_views=cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS,
        normalise=build_normalise(cfg, device),
        precision=build_precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
    )


def predict_all(
    predictor: ViewPredictor,
    loader: VideoLoader,
    *,
    log_period: int,
    output_dir: str | Path,
    should_stop: ShouldStop = never,
) -> Iterator[Predictions]:
    """Score this rank's share of the test videos, with a line of the log every ``log_period``.

    Yields:
        The predictions of every batch; none for a rank that has no videos, and none of videos
        that cannot be read, which are the quarantine's. Once ``should_stop`` says so they are too
        few.

    Raises:
        UserError: the scores of a video are not finite, or too many videos cannot be read.
    """
    began = time.perf_counter()
    data_seconds = 0.0
    batches = until(loader, should_stop)
    for index in progress(range(len(loader)), total=len(loader), description="test"):
        waiting = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break  # batches of bad videos alone do not come
        data_seconds += time.perf_counter() - waiting
        yield make_predictions(batch, predictor(batch["video"]))
        if (index + 1) % log_period == 0:
            seconds = (time.perf_counter() - began) / (index + 1)
            line = {
                "_type": "test_iter",
                "iter": f"{index + 1}/{len(loader)}",
                "dt": seconds,
                "dt_data": data_seconds / (index + 1),
                "dt_net": seconds - data_seconds / (index + 1),
                "eta": duration(seconds * (len(loader) - index - 1)),
                **memory(predictor.normalise.device),
            }
            log_json_stats(line, output_dir=output_dir)


def make_predictions(batch: Mapping[str, Any], scores: Tensor) -> Predictions:
    """Put the scores [N, V, K] of a batch's videos beside what it says about them.

    Raises:
        UserError: they are not finite.
    """
    names = [str(name) for name in batch["video_name"]]
    finite = scores.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        name = names[int(finite.int().argmin())]
        raise UserError(
            f"The scores of {name} are not finite: the weights are damaged, or float16 is too "
            "narrow for them (set TRAIN.MIXED_PRECISION_DTYPE bfloat16)."
        )
    narrow = scores.numpy().astype(np.float32)
    return Predictions(
        video_index=batch["video_index"].numpy(),
        video_names=names,
        labels=batch["label"].numpy(),
        # Guesses are made from the very numbers that are saved, rounded as they are.
        scores=narrow[:, -1],
        first_guesses=narrow.argmax(axis=-1),
    )
