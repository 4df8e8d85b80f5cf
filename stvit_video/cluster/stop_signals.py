"""The signals that ask a rank to stop: they are noted, and the training asks for them."""

import multiprocessing
import signal
from types import FrameType

# SLURM's warning before the time limit (submitit asks for USR2), scancel --signal, preemption, and
# the end of a step.
ASKING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class StopSignals:
    """Note whether this process was asked to stop.

    A handler runs wherever the main thread is, be it within a library: all that it does here is to
    set a flag. A process that is forked later inherits it, and does no harm with it.
    """

    def __init__(self) -> None:
        self.asked = False
        # Whether the processes that this one has started are ranks, which are to stop too.
        self.hands_down = False

    def install(self) -> None:
        """Take the signals over from whoever has them, submitit among them."""
        for number in ASKING:
            signal.signal(number, self._note)
        # It comes before TERM. submitit's handler would log it, which must not happen in the midst
        # of another line of the log.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.hands_down:
            for rank in multiprocessing.active_children():
                rank.terminate()
