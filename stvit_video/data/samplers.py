"""Which samples make a batch on which rank."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Draw:
    """One sample of one epoch: what the randomness of a training clip derives from."""

    index: int
    epoch: int


def generator_for(draw: Draw, *, seed: int) -> torch.Generator:
    """The source of all random choices of one training sample.

    It depends on the seed, the epoch and the sample alone: on whatever rank and in whatever
    worker the sample is made, it is the same.
    """
    mixed = np.random.SeedSequence([seed, draw.epoch, draw.index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


def replacement(draw: Draw, attempt: int, *, num_samples: int, seed: int) -> Draw:
    """The sample of the same epoch that takes the place of one whose video cannot be read.

    It depends on the seed, on the sample and on ``attempt`` alone, which counts on while what
    comes out cannot be read either.
    """
    mixed = np.random.SeedSequence([seed, draw.epoch, draw.index, attempt]).generate_state(1)
    return replace(draw, index=int(mixed[0]) % num_samples)


class TrainBatchSampler(Sampler[list[Draw]]):
    """Shuffled batches, of which every rank takes its slice.

    The ranks together see in each step what a single rank with the whole batch would see, in the
    order of ranks. What does not fill a whole step at the end of an epoch is left out of it.

    Args:
        num_samples: length of the data set.
        batch_size: samples a step on each rank.
        rank: this process.
        world_size: number of processes.
        seed: the order of an epoch depends on it and on the epoch alone.
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
        """Choose what the next iteration gives: an epoch, from one of its batches on."""
        self._epoch = epoch
        self._first_batch = first_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._num_samples // (self._batch_size * self._world_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        shuffle = np.random.default_rng([self._seed, self._epoch])
        order = self._arrange(shuffle.permutation(self._num_samples))
        for step in range(self._first_batch, len(self)):
            begin = (step * self._world_size + self._rank) * self._batch_size
            indices = order[begin : begin + self._batch_size]
            yield [Draw(index, self._epoch) for index in indices]

    def _arrange(self, order: np.ndarray) -> list[int]:
        return order.tolist()


class GroupedBatchSampler(TrainBatchSampler):
    """Shuffled batches as above, where the samples of a step of all ranks are of one group.

    Images that are batched are padded to one size, which costs little if all are wide or all are
    high. A step comes where its last sample comes in the shuffled order. What does not fill a
    step of its group at the end of an epoch is left out of it.

    Args:
        groups: number of each sample's group, from 0.
        batch_size: samples a step on each rank.
        rank: this process.
        world_size: number of processes.
        seed: the order of an epoch depends on it and on the epoch alone.
    """

    def __init__(
        self, groups: Sequence[int], *, batch_size: int, rank: int, world_size: int, seed: int
    ) -> None:
        super().__init__(
            len(groups), batch_size=batch_size, rank=rank, world_size=world_size, seed=seed
        )
        self._groups = np.asarray(groups)
        self._per_step = batch_size * world_size

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return int((np.bincount(self._groups) // self._per_step).sum())

    def _arrange(self, order: np.ndarray) -> list[int]:
        groups = self._groups[order]
        steps: list[tuple[int, list[int]]] = []
        for group in range(groups.max() + 1):
            (places,) = np.nonzero(groups == group)
            whole = places[: len(places) // self._per_step * self._per_step]
            steps += [
                (int(step[-1]), order[step].tolist()) for step in whole.reshape(-1, self._per_step)
            ]
        return [index for _, indices in sorted(steps) for index in indices]


class EvalBatchSampler(Sampler[list[int]]):
    """Consecutive batches, dealt out to the ranks in turn: every sample exactly once.

    Ranks may have one batch more or less than others, and the last batch of all may be smaller.

    Args:
        num_samples: length of the data set.
        batch_size: samples of a batch.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int, world_size: int) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        # First samples of the batches that are to come, on any rank.
        self._starts: Sequence[int] = range(0, num_samples, batch_size)

    @property
    def to_come(self) -> set[int]:
        """Samples that come on any rank."""
        return {index for begin in self._starts for index in self._batch(begin)}

    def leave_out(self, samples: Collection[int]) -> None:
        """Deal out only batches that hold other samples, too, each of them as a whole.

        Whichever are left out, a batch consists of the same samples: the last digits of what a
        model says of one may depend on the others.

        Args:
            samples: the same on all ranks.
        """
        done = set(samples)
        self._starts = [begin for begin in self._starts if not done.issuperset(self._batch(begin))]

    def __len__(self) -> int:
        return len(self._own())

    def __iter__(self) -> Iterator[list[int]]:
        for begin in self._own():
            yield list(self._batch(begin))

    def _own(self) -> Sequence[int]:
        return self._starts[self._rank :: self._world_size]

    def _batch(self, begin: int) -> range:
        return range(begin, min(begin + self._batch_size, self._num_samples))
