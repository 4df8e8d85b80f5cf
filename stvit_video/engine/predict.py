"""Score whole videos by all of their views, and measure the accuracy of the predictions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit_video.data.bad_videos import BadVideo
from stvit_video.data.loader import VideoLoader
from stvit_video.engine.metrics import format_duration, memory_stats
from stvit_video.engine.precision import Normalize, Precision, build_normalize, build_precision
from stvit_video.errors import UserError
from stvit_video.runtime.distributed import ShouldStop, never, until
from stvit_video.runtime.logging import log_json_stats, progress

# Functions from logits to scores.
HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
# Functions from the scores of views to one score; "sum" is PySlowFast's name for the mean.
ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda views: views.mean(dim=0),
    "max": lambda views: views.amax(dim=0),
}
_TOP_K = 5


class ViewPredictor:
    """Score videos by all of their views.

    Args:
        model: maps float views [B, 3, T, H, W] to logits [B, K]; in evaluation mode.
        num_clips: clips V of every video; the views of one clip are its crops.
        max_views: largest number of views in one forward pass, which bounds the memory.
        normalize: uint8 views -> float views on the device.
        precision: precision of the forward passes.
        activation: function from logits to scores, a name in ``HEAD_ACTIVATIONS``.
        ensemble: function from views' scores to the video's, a name in ``ENSEMBLES``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_clips: int,
        max_views: int,
        normalize: Normalize,
        precision: Precision,
        activation: str = "softmax",
        ensemble: str = "sum",
    ) -> None:
        self.model = model
        self.num_clips = num_clips
        self.max_views = max_views
        self.normalize = normalize
        self.precision = precision
        self.activation = HEAD_ACTIVATIONS[activation]
        self.ensemble = ENSEMBLES[ensemble]

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Score a batch of videos.

        Args:
            videos: uint8 [N, V * C, 3, T, H, W], view index = clip * C + crop.

        Returns:
            float64 [N, V, K] on the CPU: row k - 1 of a video is computed from k clips, the last
            row from all.
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
            logits = self.model(self.normalize(views))
        # In float64 the order of the sum over views does not affect the result.
        return self.activation(logits.double()).cpu()


def build_predictor(cfg: CfgNode, model: nn.Module, device: torch.device) -> ViewPredictor:
    """Build the predictor of a classifier's test."""
    return ViewPredictor(
        model,
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        max_views=cfg.TEST.BATCH_SIZE // cfg.NUM_GPUS,
        normalize=build_normalize(cfg, device),
        precision=build_precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
    )


def ensemble_by_clips(
    scores: Tensor, *, num_clips: int, method: Callable[[Tensor], Tensor]
) -> Tensor:
    """Combine the views of one video, for every number of clips from 1 to all.

    Args:
        scores: float64 [V * C, K], view index = clip * C + crop.
        num_clips: V.
        method: one of :data:`ENSEMBLES`.

    Returns:
        [V, K]: row k - 1 combines all crops of k clips (:func:`spread_clips`), the last row all
        views.
    """
    clips = scores.unflatten(0, (num_clips, -1))
    return torch.stack(
        [
            method(clips[spread_clips(number, total=num_clips)].flatten(0, 1))
            for number in range(1, num_clips + 1)
        ]
    )


def spread_clips(number: int, *, total: int) -> list[int]:
    """Choose ``number`` of ``total`` consecutive clips, evenly spread over the video.

    The video is divided into ``number`` equal pieces, and the clip at the center of each piece is
    chosen. So the accuracy with these clips estimates that of a test that samples only ``number``
    clips, which the first clips of a video would not.

    >>> [spread_clips(k, total=4) for k in (1, 2, 3, 4)]
    [[2], [1, 3], [0, 2, 3], [0, 1, 2, 3]]
    """
    return [(2 * piece + 1) * total // (2 * number) for piece in range(number)]


@dataclass(frozen=True)
class Predictions:
    """Predictions for N videos of K classes, computed from 1 to V clips.

    Attributes:
        video_index: int64 [N], indices of the videos in the data set.
        video_names: N names.
        labels: int64 [N].
        scores: float32 [N, K], computed from all views.
        top1_by_clips: int64 [N, V], the best class; column k - 1 is computed from k clips.
    """

    video_index: np.ndarray
    video_names: list[str]
    labels: np.ndarray
    scores: np.ndarray
    top1_by_clips: np.ndarray

    def __len__(self) -> int:
        return len(self.video_names)

    def select(self, positions: np.ndarray) -> "Predictions":
        """Return the predictions at some positions, int64 [M], in that order."""
        return Predictions(
            video_index=self.video_index[positions],
            video_names=[self.video_names[position] for position in positions],
            labels=self.labels[positions],
            scores=self.scores[positions],
            top1_by_clips=self.top1_by_clips[positions],
        )

    def ranking(self) -> np.ndarray:
        """Return the top-5 classes of every video, int64 [N, min(5, K)].

        Classes with equal scores are sorted by label.
        """
        return np.argsort(-self.scores, axis=1, kind="stable")[:, :_TOP_K]


def predict_all(
    predictor: ViewPredictor,
    loader: VideoLoader,
    *,
    log_period: int,
    output_dir: str | Path,
    should_stop: ShouldStop = never,
) -> Iterator[Predictions]:
    """Score this rank's share of the test videos, and log a line every ``log_period`` batches.

    Yields:
        The predictions of every batch. There are none for a rank without videos, and none for
        unreadable videos, which the log of bad videos lists. The predictions are incomplete once
        ``should_stop`` is true.

    Raises:
        UserError: the scores of a video are not finite, or too many videos cannot be read.
    """
    start_time = time.perf_counter()
    data_seconds = 0.0
    batches = until(loader, should_stop)
    for index in progress(range(len(loader)), total=len(loader), description="test"):
        data_start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break  # the loader skips batches that hold only bad videos
        data_seconds += time.perf_counter() - data_start
        yield make_predictions(batch, predictor(batch["video"]))
        if (index + 1) % log_period == 0:
            seconds = (time.perf_counter() - start_time) / (index + 1)
            stats = {
                "_type": "test_iter",
                "iter": f"{index + 1}/{len(loader)}",
                "dt": seconds,
                "dt_data": data_seconds / (index + 1),
                "dt_net": seconds - data_seconds / (index + 1),
                "eta": format_duration(seconds * (len(loader) - index - 1)),
                **memory_stats(predictor.normalize.device),
            }
            log_json_stats(stats, output_dir=output_dir)


def make_predictions(batch: Mapping[str, Any], scores: Tensor) -> Predictions:
    """Combine the scores [N, V, K] of a batch of videos with their names and labels.

    Raises:
        UserError: the scores are not finite.
    """
    names = [str(name) for name in batch["video_name"]]
    finite = scores.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        name = names[int(finite.int().argmin())]
        raise UserError(
            f"The scores of {name} are not finite: the weights are damaged, or they overflow in "
            "float16 (set TRAIN.MIXED_PRECISION_DTYPE bfloat16)."
        )
    rounded = scores.numpy().astype(np.float32)
    return Predictions(
        video_index=batch["video_index"].numpy(),
        video_names=names,
        labels=batch["label"].numpy(),
        # The top-1 classes come from the rounded scores, so they agree with the saved scores.
        scores=rounded[:, -1],
        top1_by_clips=rounded.argmax(axis=-1),
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate the predictions of one or more batches."""
    return Predictions(
        video_index=np.concatenate([part.video_index for part in parts]),
        video_names=[name for part in parts for name in part.video_names],
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        top1_by_clips=np.concatenate([part.top1_by_clips for part in parts]),
    )


def merge_predictions(
    parts: Sequence[Predictions], *, bad: Sequence[BadVideo], num_videos: int
) -> tuple[Predictions, list[BadVideo]]:
    """Merge the predictions of all batches of all ranks, in the order of the data set.

    A repeated video, or a missing one that is not bad, is a bug in the sampler and raises
    AssertionError.

    Args:
        parts: the predictions.
        bad: videos that could not be read, in this test or an earlier one.
        num_videos: size of the data set.

    Returns:
        the predictions, and the bad videos without a prediction.
    """
    merged = concatenate(parts)
    video_index = merged.video_index
    left_out = [video for video in bad if video.index not in set(video_index.tolist())]
    seen = np.sort(np.append(video_index, [video.index for video in left_out]).astype(np.int64))
    assert np.array_equal(seen, np.arange(num_videos)), "videos missing or repeated"
    order = np.argsort(video_index, kind="stable")
    return merged.select(order), left_out


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent.

    Attributes:
        top1: over all videos.
        top5: over all videos.
        class_top1: float64 [K], NaN for a class without videos.
        class_top5: float64 [K], NaN for a class without videos.
        by_clips: top-1 with 1, 2, ..., V clips.
        confusion: int64 [K, K], number of videos of class i that are predicted as class j.
    """

    top1: float
    top5: float
    class_top1: np.ndarray
    class_top5: np.ndarray
    by_clips: list[float]
    confusion: np.ndarray

    @property
    def mean_class(self) -> float:
        """Mean top-1 accuracy over the classes that have videos."""
        return float(np.nanmean(self.class_top1))

    @property
    def videos(self) -> np.ndarray:
        """Number of videos of each class, int64 [K]."""
        return self.confusion.sum(axis=1)


def compute_accuracy(predictions: Predictions) -> Accuracy:
    """Compare predictions with labels."""
    labels = predictions.labels
    num_classes = predictions.scores.shape[1]
    ranking = predictions.ranking()
    hits = ranking == labels[:, None]
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, ranking[:, 0]), 1)
    return Accuracy(
        top1=_percent(hits[:, 0]),
        top5=_percent(hits.any(axis=1)),
        class_top1=_class_percent(hits[:, 0], labels, num_classes),
        class_top5=_class_percent(hits.any(axis=1), labels, num_classes),
        by_clips=[_percent(classes == labels) for classes in predictions.top1_by_clips.T],
        confusion=confusion,
    )


def _percent(correct: np.ndarray) -> float:
    return 100.0 * float(correct.mean())


def _class_percent(correct: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    num_videos = np.bincount(labels, minlength=num_classes)
    num_correct = np.bincount(labels, weights=correct, minlength=num_classes)
    return np.divide(
        100.0 * num_correct, num_videos, out=np.full(num_classes, np.nan), where=num_videos > 0
    )
