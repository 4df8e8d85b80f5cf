"""Test that processes die with their parent, and map_in_threads."""

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

from stvit_video.runtime.process import map_in_threads, spawn_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG of Linux")

RANKS, WORKERS = 2, 2


def run_ranks_in_the_background(folder):
    # A shell starts a job with "&" like this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spawn_ranks(partial(hang_in_decoder, folder=folder), num_processes=RANKS)


def hang_in_decoder(rank, *, folder):
    """Wait for workers whose decoders hang."""
    batches = iter(loader(dict.fromkeys(range(24), "hang"), workers=WORKERS))
    processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    (folder / f"{rank}.tmp").write_text(json.dumps(processes))
    (folder / f"{rank}.tmp").rename(folder / f"{rank}.json")
    next(batches)


def is_alive(process):
    try:
        # An orphan may stay a zombie, as nobody waits for it.
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_and_workers_die_with_their_parent(tmp_path):
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
        assert all(map(is_alive, processes))
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, processes)), seconds=10)
    finally:
        for process in filter(is_alive, (parent.pid, *processes)):
            os.kill(process, signal.SIGKILL)
        parent.join()


def test_process_dies_if_its_parent_has_already_ended():
    ended = subprocess.Popen(["true"])
    ended.wait()
    code = (
        "import os; from stvit_video.runtime.process import die_with_parent\n"
        "die_with_parent(os.getppid()); print('alive', flush=True)\n"
        f"die_with_parent({ended.pid}); print('still alive', flush=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("alive\n", -signal.SIGKILL)


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


def test_map_in_threads_keeps_order_and_uses_one_thread_each(three_threads):
    barrier = threading.Barrier(3, timeout=20)

    def square(item):
        if item < 3:
            barrier.wait()  # Three items run at the same time.
        time.sleep(0.01 * (item % 3 == 0))
        return item**2, torch.get_num_threads(), threading.current_thread().name

    results = map_in_threads(square, iter(range(20)))
    assert [result for result, _, _ in results] == [item**2 for item in range(20)]
    assert {threads for _, threads, _ in results} == {1}
    assert len({name for _, _, name in results}) == 3


def test_map_in_threads_consumes_items_lazily(three_threads):
    taken, done = [], []

    def items():
        for item in range(30):
            taken.append(item)
            assert len(taken) - len(done) <= 5
            yield item

    map_in_threads(done.append, items())
    assert len(done) == 30


def test_map_in_threads_raises_errors(three_threads):
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda item: 1 / item, [1, 0, 2])
