"""Items in threads: their order, how many at a time, and what a failure leaves."""

import threading
import time

import pytest
import torch

from stvit_video.runtime.threads import map_by_single_threads


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


def test_results_keep_the_order_and_each_has_one_thread(three_threads):
    together = threading.Barrier(3, timeout=20)

    def square(item):
        if item < 3:
            together.wait()  # in work at the same time
        time.sleep(0.01 * (item % 3 == 0))
        return item**2, torch.get_num_threads(), threading.current_thread().name

    results = map_by_single_threads(square, iter(range(20)))
    assert [result for result, _, _ in results] == [item**2 for item in range(20)]
    assert {threads for _, threads, _ in results} == {1}
    assert len({name for _, _, name in results}) == 3


def test_items_are_taken_only_when_they_are_needed(three_threads):
    taken, done = [], []

    def items():
        for item in range(30):
            taken.append(item)
            assert len(taken) - len(done) <= 5
            yield item

    map_by_single_threads(done.append, items())
    assert len(done) == 30


def test_a_failure_comes_out(three_threads):
    with pytest.raises(ZeroDivisionError):
        map_by_single_threads(lambda item: 1 / item, [1, 0, 2])
