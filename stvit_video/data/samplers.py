"""Distribute the samples of a data set over batches and ranks."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class SampleKey:
    """Key of a training sample: its index and its epoch, which determine its random numbers."""

    index: int
    epoch: int


def generator_for(key: SampleKey, *, seed: int) -> torch.Generator:
    """Return the generator of all random numbers of a training sample.

    It depends only on the seed, the epoch and the index, so a sample is the same on any rank and in
    any worker.
    """
    state = np.random.SeedSequence([seed, key.epoch, key.index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def draw_replacement(key: SampleKey, attempt: int, *, num_samples: int, seed: int) -> SampleKey:
    """Draw a sample of the same epoch to replace one whose video cannot be read.

    It depends only on the seed, the sample and ``attempt``, which is incremented while the
    replacement cannot be read either.
    """
    state = np.random.SeedSequence([seed, key.epoch, key.index, attempt]).generate_state(1)
    return replace(key, index=int(state[0]) % num_samples)


class TrainBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches for training; each rank takes its slice of the global batch.

    The batches of all ranks, in rank order, are the batch that a single rank with the whole batch
    size would see. Samples that do not fill the last step of an epoch are dropped.

    Args:
        num_samples: length of the data set.
        batch_size: samples per step on each rank.
        rank: rank of this process.
        world_size: number of processes.
        seed: the order of an epoch depends only on this seed and the epoch.
    """

    def __init__(
        self, num_samples: int, *, batch_size: int, rank: int, world_size: int, seed: int
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._epoch = 0
        self._first_batch = 0

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Set the epoch of the next iteration, and the batch that it starts from."""
        self._epoch = epoch
        self._first_batch = first_batch

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return self._num_samples // (self._batch_size * self._world_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = self._arrange(rng.permutation(self._num_samples))
        for step in range(self._first_batch, len(self)):
            begin = (step * self._world_size + self._rank) * self._batch_size
            indices = order[begin : begin + self._batch_size]
            yield [SampleKey(index, self._epoch) for index in indices]

    def _arrange(self, order: np.ndarray) -> list[int]:
        """Return the samples of an epoch, step by step, from their shuffled order."""
        return order.tolist()


class GroupedBatchSampler(TrainBatchSampler):
    """Shuffled batches for training; all samples of a step, on all ranks, are of one group.

    The images of a batch are padded to one size, which wastes little memory if all are landscape
    or all are portrait. Steps are ordered by the position of their last sample in the shuffled
    order. Samples that do not fill the last step of their group are dropped.

    Args:
        groups: group of each sample, from 0.
        batch_size: samples per step on each rank.
        rank: rank of this process.
        world_size: number of processes.
        seed: the order of an epoch depends only on this seed and the epoch.
    """

    def __init__(
        self, groups: Sequence[int], *, batch_size: int, rank: int, world_size: int, seed: int
    ) -> None:
        super().__init__(
            len(groups), batch_size=batch_size, rank=rank, world_size=world_size, seed=seed
        )
        self._groups = np.asarray(groups)
        self._step_size = batch_size * world_size

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return int((np.bincount(self._groups) // self._step_size).sum())

    def _arrange(self, order: np.ndarray) -> list[int]:
        groups = self._groups[order]
        steps: list[tuple[int, list[int]]] = []
        for group in range(groups.max() + 1):
            (positions,) = np.nonzero(groups == group)
            num_steps = len(positions) // self._step_size
            full = positions[: num_steps * self._step_size].reshape(num_steps, self._step_size)
            steps += [(int(step[-1]), order[step].tolist()) for step in full]
        return [index for _, indices in sorted(steps) for index in indices]


class EvalBatchSampler(Sampler[list[int]]):
    """Consecutive batches for evaluation, assigned to the ranks in turn; each sample comes once.

    Some ranks may have one batch more than others, and the last batch may be smaller.

    Args:
        num_samples: length of the data set.
        batch_size: samples per batch.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int, world_size: int) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        # The first sample of each remaining batch of any rank.
        self._starts: Sequence[int] = range(0, num_samples, batch_size)

    @property
    def remaining(self) -> set[int]:
        """Samples of the remaining batches of all ranks."""
        return {index for start in self._starts for index in self._batch(start)}

    def skip(self, samples: Collection[int]) -> None:
        """Skip the batches that hold only these samples; all others remain whole.

        Batches keep their composition because the last digits of a model's output for a sample may
        depend on the other samples of its batch.

        Args:
            samples: samples to skip, the same on all ranks.
        """
        skipped = set(samples)
        self._starts = [
            start for start in self._starts if not skipped.issuperset(self._batch(start))
        ]

    def __len__(self) -> int:
        return len(self._own_starts())

    def __iter__(self) -> Iterator[list[int]]:
        for start in self._own_starts():
            yield list(self._batch(start))

    def _own_starts(self) -> Sequence[int]:
        return self._starts[self._rank :: self._world_size]

    def _batch(self, start: int) -> range:
        return range(start, min(start + self._batch_size, self._num_samples))
