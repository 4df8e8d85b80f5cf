"""Scores of all test videos, brought together from the ranks, and the accuracies they give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stvit_video.data.bad_videos import BadVideo

# Guesses of a video that count for the top-5 accuracy; fewer where there are fewer classes.
TOP = 5


@dataclass(frozen=True)
class Predictions:
    """What the model says about N videos of K classes, seen with 1 to V clips.

    Attributes:
        video_index: int64 [N], the videos' numbers in the data set.
        video_names: N names.
        labels: int64 [N].
        scores: float32 [N, K], of all views together.
        first_guesses: int64 [N, V], column k - 1 made of k clips.
    """

    video_index: np.ndarray
    video_names: list[str]
    labels: np.ndarray
    scores: np.ndarray
    first_guesses: np.ndarray

    def __len__(self) -> int:
        return len(self.video_names)

    def select(self, positions: np.ndarray) -> "Predictions":
        """Return those at some positions, int64 [M], in their order."""
        return Predictions(
            video_index=self.video_index[positions],
            video_names=[self.video_names[position] for position in positions],
            labels=self.labels[positions],
            scores=self.scores[positions],
            first_guesses=self.first_guesses[positions],
        )

    def ranking(self) -> np.ndarray:
        """Return the best classes of every video, int64 [N, min(5, K)], equal ones by number."""
        return np.argsort(-self.scores, axis=1, kind="stable")[:, :TOP]


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent.

    Attributes:
        top1: of all videos.
        top5: of all videos.
        class_top1: float64 [K], NaN for a class without videos.
        class_top5: the same.
        by_clips: top-1 with 1, 2, ..., V clips.
        confusion: int64 [K, K], videos of class i that were taken for class j.
    """

    top1: float
    top5: float
    class_top1: np.ndarray
    class_top5: np.ndarray
    by_clips: list[float]
    confusion: np.ndarray

    @property
    def mean_class(self) -> float:
        """Mean top-1 accuracy of the classes that have videos."""
        return float(np.nanmean(self.class_top1))

    @property
    def videos(self) -> np.ndarray:
        """Videos of every class, int64 [K]."""
        return self.confusion.sum(axis=1)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Put predictions of one or more batches behind each other."""
    return Predictions(
        video_index=np.concatenate([part.video_index for part in parts]),
        video_names=[name for part in parts for name in part.video_names],
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        first_guesses=np.concatenate([part.first_guesses for part in parts]),
    )


def merge(
    parts: Sequence[Predictions], *, bad: Sequence[BadVideo], num_videos: int
) -> tuple[Predictions, list[BadVideo]]:
    """Bring the predictions of all batches of all ranks together, in the order of the data set.

    A video that came twice, or never though it is not bad, is a defect of the sampler, and an
    AssertionError.

    Args:
        parts: the predictions.
        bad: videos that could not be read, be it in an earlier test.
        num_videos: of the data set.

    Returns:
        the predictions, and those of the bad videos that are not among them.
    """
    together = concatenate(parts)
    video_index = together.video_index
    left_out = [video for video in bad if video.index not in set(video_index.tolist())]
    seen = np.sort(np.append(video_index, [video.index for video in left_out]).astype(np.int64))
    assert np.array_equal(seen, np.arange(num_videos)), "videos missing or repeated"
    order = np.argsort(video_index, kind="stable")
    return together.select(order), left_out


def measure(predictions: Predictions) -> Accuracy:
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
        by_clips=[_percent(guesses == labels) for guesses in predictions.first_guesses.T],
        confusion=confusion,
    )


def _percent(right: np.ndarray) -> float:
    return 100.0 * float(right.mean())


def _class_percent(right: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    videos = np.bincount(labels, minlength=num_classes)
    right_videos = np.bincount(labels, weights=right, minlength=num_classes)
    return np.divide(
        100.0 * right_videos, videos, out=np.full(num_classes, np.nan), where=videos > 0
    )
