"""Being asked to stop: by a scheduler, by Ctrl-C, by the death of the launcher."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

STOPPED = 85  # exit status of a run that was asked to stop, and may be started again (HTCondor's)
HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
AGAIN_SECONDS = 2.0  # a launcher and its group are signalled at once: that is no second request
PR_SET_PDEATHSIG = 1  # prctl(2)


class Stopped(BaseException):
    """The run was asked to stop. Not an Exception: nothing on the way may take it for an error."""


class StopSignal:
    """Whether somebody asked for the end. A second request, later, ends the process at once."""

    def __init__(self, exit_now: Callable[[int], object] = os._exit) -> None:
        """Begin deaf: listen() installs the handlers. Takes what ends the process at once."""
        self._exit_now = exit_now
        self.signal: signal.Signals | None = None
        self._first = 0.0
        self._deferred = False

    @property
    def asked(self) -> bool:
        """Tell whether this process has been asked."""
        return self.signal is not None

    def listen(self) -> None:
        """Heed signals from here on; until defer() there is nothing to save, and they end it."""
        for number in HEEDED:
            signal.signal(number, self._note)
        _stop_with_launcher()

    def defer(self) -> None:
        """Only take note from here on: the loop looks between updates."""
        self._deferred = True
        if self.asked:
            raise Stopped

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._first = signal.Signals(number), now
            if not self._deferred:
                raise Stopped
        elif now - self._first > AGAIN_SECONDS:
            self._exit_now(128 + number)


def _stop_with_launcher() -> None:
    """Be told when the launcher dies: `accelerate launch` and torchrun can leave orphans.

    Only where there is one: a shell that starts training in the background may well go.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
