import os
import signal
import subprocess
import sys

import pytest

from stvit_video.slurm.task import STOP_SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def own_handlers():
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGCONT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_handlers_replace_existing_ones(number):
    signal.signal(number, lambda *_: pytest.fail("the old handler was called"))
    signals = StopSignals()
    signals.install()
    assert not signals.received
    for _ in range(2):
        os.kill(os.getpid(), number)
    assert signals.received


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_process_ignores_signals_during_shutdown(name):
    """Even if a signal arrives after Python has restored the default handlers."""
    code = f"""
import os, signal, sys
from stvit_video.slurm.task import StopSignals

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.{name}):
        kill(process, number)

signals = StopSignals()
signals.install()
signals.ignore()
sys.late = Late()
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sigcont_does_not_request_a_stop():
    signal.signal(signal.SIGCONT, lambda *_: pytest.fail("submitit would log it"))
    signals = StopSignals()
    signals.install()
    os.kill(os.getpid(), signal.SIGCONT)
    assert not signals.received
