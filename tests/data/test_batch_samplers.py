import pytest
import torch

from stvit_video.data.samplers import (
    EvalBatchSampler,
    SampleKey,
    TrainBatchSampler,
    draw_replacement,
    generator_for,
)


def train_batches(rank, world_size, *, batch_size, epoch=0, num_samples=50, seed=1):
    sampler = TrainBatchSampler(
        num_samples, batch_size=batch_size, rank=rank, world_size=world_size, seed=seed
    )
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_all_ranks_together_see_the_batches_of_a_single_rank(world_size):
    ranks = [train_batches(r, world_size, batch_size=4, epoch=2) for r in range(world_size)]
    together = [[key for own in step for key in own] for step in zip(*ranks, strict=True)]
    assert together == train_batches(0, 1, batch_size=4 * world_size, epoch=2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_repeats_no_sample_and_drops_less_than_a_step(world_size):
    ranks = [train_batches(r, world_size, batch_size=4) for r in range(world_size)]
    indices = [key.index for batches in ranks for batch in batches for key in batch]
    assert len(indices) == len(set(indices)) == 50 // (4 * world_size) * 4 * world_size
    assert set(indices) <= set(range(50))


def test_epochs_and_seeds_differ_and_repeat():
    def order(**options):
        return [key.index for b in train_batches(0, 1, batch_size=5, **options) for key in b]

    assert order(epoch=3) == order(epoch=3)
    assert order(epoch=3) != order(epoch=4)
    assert order(seed=3) != order(seed=4)
    assert {key.epoch for key in train_batches(0, 1, batch_size=5, epoch=3)[0]} == {3}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [0, 1, 7, 12])
def test_evaluation_takes_every_sample_exactly_once(world_size, num_samples):
    batches = []
    for rank in range(world_size):
        sampler = EvalBatchSampler(num_samples, batch_size=3, rank=rank, world_size=world_size)
        own = list(sampler)
        assert len(own) == len(sampler)
        batches.append(own)
    everything = [index for own in batches for batch in own for index in batch]
    assert sorted(everything) == list(range(num_samples))


def test_ranks_take_consecutive_batches_in_turn():
    own = list(EvalBatchSampler(11, batch_size=3, rank=1, world_size=2))
    assert own == [[3, 4, 5], [9, 10]]


def test_skipping_samples_keeps_batches_whole():
    samplers = [EvalBatchSampler(11, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for sampler in samplers:
        sampler.skip({0, 1, 2, 4, 9, 10})
        assert sampler.remaining == {3, 4, 5, 6, 7, 8}
    assert [list(sampler) for sampler in samplers] == [[[3, 4, 5]], [[6, 7, 8]]]
    samplers[0].skip(range(11))
    assert (len(samplers[0]), list(samplers[0]), samplers[0].remaining) == (0, [], set())


def test_each_sample_has_its_own_random_numbers():
    def numbers(key, seed=0):
        return torch.rand(4, generator=generator_for(key, seed=seed)).tolist()

    keys = [SampleKey(index, epoch) for index in range(5) for epoch in range(5)]
    streams = [tuple(numbers(key)) for key in keys] + [tuple(numbers(SampleKey(0, 0), seed=1))]
    assert len(set(streams)) == 26
    assert numbers(SampleKey(3, 1)) == numbers(SampleKey(3, 1))


def test_replacements_are_other_samples_of_the_epoch_and_reproducible():
    def replacements(key, seed=0):
        keys = (draw_replacement(key, n, num_samples=50, seed=seed) for n in range(1, 40))
        return [(other.index, other.epoch) for other in keys]

    assert replacements(SampleKey(3, 1)) == replacements(SampleKey(3, 1))
    lists = [
        replacements(SampleKey(3, 1)),
        replacements(SampleKey(4, 1)),
        replacements(SampleKey(3, 2)),
        replacements(SampleKey(3, 1), seed=1),
    ]
    assert len({tuple(index for index, _ in some) for some in lists}) == 4
    assert {epoch for _, epoch in lists[2]} == {2}
    assert len({index for index, _ in lists[0]}) > 20
    assert all(0 <= index < 50 for index, _ in lists[0])


def test_an_epoch_can_begin_at_any_batch():
    sampler = TrainBatchSampler(50, batch_size=4, rank=0, world_size=1, seed=1)
    whole = train_batches(0, 1, batch_size=4, epoch=2)
    for first in (0, 1, 11, 12):
        sampler.set_epoch(2, first_batch=first)
        assert list(sampler) == whole[first:]
