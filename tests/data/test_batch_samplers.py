import pytest
import torch

from stvit_video.data.samplers import (
    Draw,
    EvalBatchSampler,
    TrainBatchSampler,
    generator_for,
    replacement,
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
def test_ranks_see_together_what_one_rank_sees_with_the_whole_batch(world_size):
    ranks = [train_batches(r, world_size, batch_size=4, epoch=2) for r in range(world_size)]
    together = [[draw for own in step for draw in own] for step in zip(*ranks, strict=True)]
    assert together == train_batches(0, 1, batch_size=4 * world_size, epoch=2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_has_no_sample_twice_and_leaves_out_less_than_a_step(world_size):
    ranks = [train_batches(r, world_size, batch_size=4) for r in range(world_size)]
    drawn = [draw.index for batches in ranks for batch in batches for draw in batch]
    assert len(drawn) == len(set(drawn)) == 50 // (4 * world_size) * 4 * world_size
    assert set(drawn) <= set(range(50))


def test_epochs_and_seeds_differ_and_repeat():
    def order(**options):
        return [d.index for b in train_batches(0, 1, batch_size=5, **options) for d in b]

    assert order(epoch=3) == order(epoch=3)
    assert order(epoch=3) != order(epoch=4)
    assert order(seed=3) != order(seed=4)
    assert {draw.epoch for draw in train_batches(0, 1, batch_size=5, epoch=3)[0]} == {3}


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


def test_what_is_left_out_leaves_batches_whole():
    samplers = [EvalBatchSampler(11, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for sampler in samplers:
        sampler.leave_out({0, 1, 2, 4, 9, 10})
        assert sampler.to_come == {3, 4, 5, 6, 7, 8}
    assert [list(sampler) for sampler in samplers] == [[[3, 4, 5]], [[6, 7, 8]]]
    samplers[0].leave_out(range(11))
    assert (len(samplers[0]), list(samplers[0]), samplers[0].to_come) == (0, [], set())


def test_draws_have_streams_of_their_own():
    def numbers(draw, seed=0):
        return torch.rand(4, generator=generator_for(draw, seed=seed)).tolist()

    draws = [Draw(index, epoch) for index in range(5) for epoch in range(5)]
    streams = [tuple(numbers(draw)) for draw in draws] + [tuple(numbers(Draw(0, 0), seed=1))]
    assert len(set(streams)) == 26
    assert numbers(Draw(3, 1)) == numbers(Draw(3, 1))


def test_replacements_are_other_samples_of_the_epoch_and_always_the_same():
    def others(draw, seed=0):
        tries = (replacement(draw, n, num_samples=50, seed=seed) for n in range(1, 40))
        return [(other.index, other.epoch) for other in tries]

    assert others(Draw(3, 1)) == others(Draw(3, 1))
    lists = [others(Draw(3, 1)), others(Draw(4, 1)), others(Draw(3, 2)), others(Draw(3, 1), seed=1)]
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
