"""A data loader that brings a user's mistake out of its workers as one sentence."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from stvit_video.data.collate import collate
from stvit_video.errors import UserError


class _MistakesAsItems(Dataset[Any]):
    """Returns a `UserError` as the item, where raising would wrap it into a worker's traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return UserError(str(error))


class VideoLoader(DataLoader[Any]):
    """Batches of a data set of dicts; ``batch_sampler`` says which.

    Videos are decoded in ``num_workers`` processes (0: in this one), which live as long as the
    loader; each uses one thread.

    Args:
        dataset: map-style, of dicts of tensors, numbers and strings, or of lists of them: an item
            may be several samples of the batch.
        batch_sampler: lists of what the data set is indexed with.
        num_workers: processes.
        pin_memory: copy batches to page-locked memory, for a GPU.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_sampler: Sampler[Any],
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        super().__init__(
            _MistakesAsItems(dataset),
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=_collate,
            worker_init_fn=_use_one_thread,
            persistent_workers=num_workers > 0,
            # Of its own: the seed of the workers, drawn when they start, must not move the global
            # stream, which a resumed run takes up where it was.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over an epoch; the workers start at once, not with the first batch.

        Raises:
            UserError: a sample could not be made.
        """
        return _raise_mistakes(super().__iter__())


def _collate(items: list[Any]) -> Any:
    mistakes = [item for item in items if isinstance(item, UserError)]
    return mistakes[0] if mistakes else collate(list(_samples(items)))


def _samples(items: list[Any]) -> Iterator[Any]:
    for item in items:
        yield from item if isinstance(item, list) else [item]


def _raise_mistakes(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
