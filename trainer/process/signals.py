"""StopSignal: requests to stop, from a scheduler, Ctrl-C or the death of the launcher."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

STOPPED = 85  # exit status of a run that was asked to stop and can be resumed (HTCondor's)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SECOND_REQUEST_SECONDS = 2.0  # a signal sooner is the same one, sent to the launcher and its group
PR_SET_PDEATHSIG = 1  # prctl(2)


class Stopped(BaseException):
    """The run was asked to stop. Not an Exception, so that no handler takes it for an error."""


class StopSignal:
    """Records requests to stop. A second request ends the process at once."""

    def __init__(self, exit_now: Callable[[int], object] = os._exit) -> None:
        """Create it without handlers; see install_handlers().

        Args:
            exit_now: ends the process at once, with an exit status.
        """
        self._exit_now = exit_now
        self.signal: signal.Signals | None = None
        self._requested_at = 0.0
        self._deferred = False

    @property
    def requested(self) -> bool:
        """Return whether this process was asked to stop."""
        return self.signal is not None

    def install_handlers(self) -> None:
        """Handle signals. Until defer() they raise Stopped, because there is nothing to save."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        _stop_with_launcher()

    def defer(self) -> None:
        """Only record requests from now on; the loop checks them between updates."""
        self._deferred = True
        if self.requested:
            raise Stopped

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._requested_at = signal.Signals(number), now
            if not self._deferred:
                raise Stopped
        elif now - self._requested_at > SECOND_REQUEST_SECONDS:
            self._exit_now(128 + number)


def _stop_with_launcher() -> None:
    """Get SIGTERM when the launcher dies: `accelerate launch` and torchrun can leave orphans.

    Without a launcher the parent is a shell, which may exit while training continues.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
