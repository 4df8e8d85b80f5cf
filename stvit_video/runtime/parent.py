"""Processes that must not outlive the one that started them."""

import ctypes
import os
import signal
import sys

# prctl(2).
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends, in whatever way that ends.

    A parent that gets SIGKILL cannot end its children any more, so the kernel does it. Linux alone
    can; elsewhere nothing happens. What counts as the parent is the thread that started this
    process. Processes that this one starts must ask for it themselves.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
