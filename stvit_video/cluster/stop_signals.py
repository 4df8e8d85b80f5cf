"""The signals that ask a rank to stop: they are noted, and the training asks for them."""

import signal
from ctypes import c_bool
from multiprocessing.sharedctypes import RawValue
from types import FrameType

# SLURM's warning before the time limit (submitit asks for USR2), scancel --signal, preemption, and
# the end of a step.
ASKING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class StopSignals:
    """Note whether this process was asked to stop.

    A handler runs wherever the main thread is, be it within a library: all that it does here is to
    set a flag. The processes that this one starts share the flag. So ranks among them know that
    they are to stop without a signal of their own, which would end those that have only begun.
    """

    def __init__(self) -> None:
        self._flag = RawValue(c_bool, False)

    @property
    def asked(self) -> bool:
        """Whether this process, or one that shares its flag, was asked."""
        return self._flag.value

    def install(self) -> None:
        """Take the signals over from whoever has them, submitit among them."""
        for number in ASKING:
            signal.signal(number, self._note)
        # It comes before TERM. submitit's handler would log it, which must not happen in the midst
        # of another line of the log.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    def ignore(self) -> None:
        """Be deaf to the signals from now on: this process is ending, and must come to its end.

        Python takes its handlers back while it still has much to tidy up.
        """
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._flag.value = True
