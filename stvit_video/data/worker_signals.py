"""Which signals end a worker of a loader."""

import os
import signal
import threading


def leave_stopping_to_the_parent() -> None:
    """Let this process be ended by the one that started it, and not by a cluster.

    SLURM signals every process of a job, so also the workers of a rank that is to finish its step:
    USR1 and USR2 would end them, or run the handler that they inherited, and so would TERM, by
    which the parent itself ends workers. Who sent it is told by ``sigwaitinfo`` alone. (Of two that
    come at the same moment the system passes on the first; a parent that ends sends another.)
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # In every thread that will be started from here; blocked, the signal is left to the one below.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)
