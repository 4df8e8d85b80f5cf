import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

from stvit_video.data.workers import ignore_cluster_signals

FORK = multiprocessing.get_context("fork")
NAMES = ("USR1", "USR2", "TERM")


def answer(connection):
    ignore_cluster_signals()
    while True:
        connection.send(connection.recv())


def is_pending(pid, number):
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool(int(status["ShdPnd"], 16) & 1 << (number - 1))


def test_only_the_parent_ends_a_worker():
    ours, its = FORK.Pipe()
    inherited = signal.signal(signal.SIGUSR2, lambda *_: os._exit(3))
    worker = FORK.Process(target=answer, args=(its,))
    try:
        worker.start()
        for name in ("", *NAMES):
            if name:
                # Sent by another process, like the signals of SLURM.
                subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
            ours.send(name)
            assert ours.poll(10), f"the worker did not survive {name}"
            assert ours.recv() == name
        # Equal signals do not queue: a second one would be lost while the first is pending.
        while is_pending(worker.pid, signal.SIGTERM):
            time.sleep(0.01)
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR2, inherited)
        worker.kill()
        worker.join()
