"""A run that stands still ends, and says where it stood."""

import faulthandler
import time

STDERR = 2  # the descriptor: what a display has put in sys.stderr's place would swallow it
SLOWEST = 5.0  # times the longest beat so far: an update may be long, a stall is longer
FIRST_SECONDS = 600.0  # the first beat compiles kernels, opens files, and knows no other


class Watchdog:
    """Ends the process, with the stacks of all its threads, when it has not been fed for long.

    A process that dies or hangs leaves the others waiting in the gradient's all-reduce, some for
    ever: each comes to its own end.
    """

    def __init__(self, seconds: float) -> None:
        """Take the limit in seconds; 0: never."""
        self._limit = seconds
        self._longest = 0.0
        self._fed = 0.0

    def feed(self, limit: float | None = None) -> None:
        """Begin to wait anew.

        Args:
            limit: seconds, for what is no part of an update; None: by the longest part so far.
        """
        now = time.monotonic()
        if self._fed and limit is None:
            self._longest = max(self._longest, now - self._fed)
        self._fed = 0.0 if limit else now
        if self._limit:
            # a thread in C: it fires also where Python's lock is never let go
            faulthandler.dump_traceback_later(limit or self._patience(), exit=True, file=STDERR)

    def rest(self) -> None:
        """Stop waiting: what comes may take any time."""
        self._fed = 0.0
        faulthandler.cancel_dump_traceback_later()

    def _patience(self) -> float:
        return max(self._limit, SLOWEST * self._longest) if self._longest else FIRST_SECONDS
