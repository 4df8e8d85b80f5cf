"""The signals that ask a rank to stop: they are noted, and the training asks for them."""

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

    def install(self) -> None:
        """Take the signals over from whoever has them, submitit among them."""
        for number in ASKING:
            signal.signal(number, self._note)

    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self.asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
