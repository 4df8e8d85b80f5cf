"""A data set whose bad videos are values: what runs in a loader's workers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch.utils.data import Dataset

from stvit_video.data.bad_video import BadVideo, BadVideoError
from stvit_video.data.collate import collate
from stvit_video.data.samplers import Draw
from stvit_video.data.worker_watch import WorkerWatch
from stvit_video.errors import UserError

# What a data set is indexed with.
Key: TypeAlias = Draw | int
# A sample (None: its video is bad and there is no other), and what went wrong on the way to it.
Item: TypeAlias = tuple[Any, list[BadVideo]]


class Videos(Protocol):
    """What a data set of videos must offer."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Make a sample, or raise a `BadVideoError`."""

    def bad_video(self, index: int, error: str, *, kills: bool = False) -> BadVideo:
        """Describe a video that cannot be read."""


class GuardedVideos(Dataset[Item]):
    """Samples of a data set, and reports of the videos that could not be read.

    Args:
        datasets: the same data set over the decoder of the config and, if there is a second try,
            over another one.
        replace: gives the sample that takes the place of a bad one at the n-th try, n from 1;
            None: there is none.
        max_bad: with more bad videos than this the run stops, so no more are tried for one sample.
        watch: is told which video is being read.

    Attributes:
        is_killer: for each video whether it is not to be opened; in memory that all processes
            share.
    """

    def __init__(
        self,
        datasets: Sequence[Videos],
        *,
        replace: Callable[[Draw, int], Draw] | None,
        max_bad: int,
        watch: WorkerWatch,
    ) -> None:
        self.is_killer = torch.zeros(len(datasets[0]), dtype=torch.bool).share_memory_()
        self._datasets = datasets
        self._replace = replace
        self._max_bad = max_bad
        self._watch = watch

    def __len__(self) -> int:
        return len(self._datasets[0])

    def __getitem__(self, key: Key) -> Item:
        """Make a sample; a `UserError` that is about no video comes as the sample."""
        reports: list[BadVideo] = []
        sample = self._read(key, reports)
        tried = {video_index(key)}
        attempt = 0
        # Which sample takes the place depends on the draw and on the files alone, not on what
        # this worker has seen before, so that the samples of an epoch are always the same.
        while sample is None and isinstance(key, Draw) and self._replace is not None:
            if len(tried) > self._max_bad or len(tried) == len(self):
                break
            attempt += 1
            other = self._replace(key, attempt)
            if other.index not in tried:
                tried.add(other.index)
                sample = self._read(other, reports)
        return sample, reports

    def _read(self, key: Key, reports: list[BadVideo]) -> Any:
        index = video_index(key)
        if self.is_killer[index]:
            return None  # the main process has said so, and needs no report
        errors = []
        for dataset in self._datasets:
            try:
                with self._watch.reading(index):
                    sample = dataset[key]
            except BadVideoError as error:
                errors.append(error.bad.error)
            except UserError as error:
                return UserError(str(error))
            except StopIteration:
                # Raised further, it would end the epoch in silence.
                errors.append("its decoder gave fewer frames than it promised (StopIteration)")
            else:
                if errors:
                    reports.append(self._report(index, errors[0], second_try=True))
                return sample
        reports.append(self._report(index, errors[0]))
        return None

    def _report(self, index: int, error: str, *, second_try: bool = False) -> BadVideo:
        bad = self._datasets[0].bad_video(index, error)
        return dataclasses.replace(bad, second_try=second_try)


def video_index(key: Key) -> int:
    """The number in the data set of the video that a sample is made of."""
    return key.index if isinstance(key, Draw) else key


def collate_items(
    items: list[Item], *, collate: Callable[[list[dict[str, Any]]], Any] = collate
) -> Item:
    """Make a batch of the samples that there are (None of none), and gather the reports."""
    reports = [report for _, item_reports in items for report in item_reports]
    samples = [sample for made, _ in items for sample in _samples(made)]
    mistakes = [sample for sample in samples if isinstance(sample, UserError)]
    if mistakes:
        return mistakes[0], reports
    return (collate(samples) if samples else None), reports


def _samples(made: Any) -> list[Any]:
    """Give the samples of one item, which may be none or several."""
    if made is None:
        return []
    return made if isinstance(made, list) else [made]
