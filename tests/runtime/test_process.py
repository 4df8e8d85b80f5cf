"""Processes end with their parent; items in threads: their order, how many at a time, failures."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import psutil
import pytest
import torch
from faulty import loader

from stvit_video.runtime.process import map_by_single_threads, spawn_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children")

RANKS, WORKERS = 2, 2


def run_ranks_in_the_background(folder):
    # As a job that was started by a shell with "&".
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spawn_ranks(partial(decode, folder=folder), num_processes=RANKS)


def decode(rank, *, folder):
    """Be a rank that waits, with workers whose decoders hang."""
    batches = iter(loader(dict.fromkeys(range(24), "hang"), workers=WORKERS))
    processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    (folder / f"{rank}.tmp").write_text(json.dumps(processes))
    (folder / f"{rank}.tmp").rename(folder / f"{rank}.json")
    next(batches)


def lives(process):
    try:
        # Nobody need wait for an orphan.
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_and_their_workers_end_with_their_parent(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(
        target=run_ranks_in_the_background, args=(tmp_path,)
    )
    parent.start()
    processes = []
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.json"))) == RANKS)
        for file in tmp_path.glob("*.json"):
            processes += json.loads(file.read_text())
        assert len(processes) == RANKS * (1 + WORKERS)
        assert all(map(lives, processes))
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(lives, processes)), seconds=10)
    finally:
        for process in filter(lives, (parent.pid, *processes)):
            os.kill(process, signal.SIGKILL)
        parent.join()


def test_a_parent_that_has_ended_already():
    ended = subprocess.Popen(["true"])
    ended.wait()
    code = (
        "import os; from stvit_video.runtime.process import die_with_parent\n"
        "die_with_parent(os.getppid()); print('lives', flush=True)\n"
        f"die_with_parent({ended.pid}); print('still lives', flush=True)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (told.stdout, told.returncode) == ("lives\n", -signal.SIGKILL)


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
