"""A run that stands still ends, and says where it stood."""

import atexit
import faulthandler
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from trainer.process import watchdog_process
from trainer.process.watchdog_process import LAYOUT

STDERR = 2  # the descriptor: what a display has put in sys.stderr's place would swallow it
SLOWEST = 5.0  # times the longest pass so far: a pass may be long, a stall is longer
FIRST_SECONDS = 600.0  # the first pass compiles kernels, opens files, and knows no other
LEAVING_SECONDS = 120.0  # from the last line of Python to the end of the process


class Watchdog:
    """Ends the process, with the stacks of all its threads, when it has not been fed for long.

    A process that dies or hangs leaves the others waiting in the gradient's all-reduce, some for
    ever: each comes to its own end. A process of its own watches (watchdog_process): a timer in
    this one would run on while this one is stopped, and could not tell how it was killed.
    """

    def __init__(
        self, seconds: float, status: Path | None = None, checkpoints: Path | None = None
    ) -> None:
        """Start the watchdog process.

        Args:
            seconds: the limit; 0: never, and only status.json is kept.
            status: path of status.json, on the process that writes it.
            checkpoints: their folder: while another process saves after an error, this one waits.
        """
        self._limit = seconds
        self._longest = 0.0
        self._fed = 0.0
        self._beats = 0
        self._pid = os.getpid()
        descriptor = _memory()
        self._shared = mmap.mmap(descriptor, LAYOUT.size)
        faulthandler.register(signal.SIGUSR2, file=STDERR, all_threads=True)
        paths = [str(path.absolute()) if path else "" for path in (status, checkpoints)]
        arguments = [str(self._pid), str(descriptor), *paths]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog_process.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C, Ctrl-Z and a launcher's signals are not for it
        )
        os.close(descriptor)
        atexit.register(self._leave)  # runs after all threads that were to be waited for

    @property
    def first_seconds(self) -> float:
        """Return the limit for what has no measure yet: a first pass, a batch of an evaluation."""
        return max(self._limit, FIRST_SECONDS)

    def feed(self, limit: float | None = None, where: str = "an update") -> None:
        """Begin to wait anew.

        Args:
            limit: seconds, for what is no pass of an update; None: by the longest pass so far.
            where: in the run.
        """
        self._measure()
        self._fed = 0.0 if limit else time.monotonic()
        self._share(limit or self._patience(), where=where)

    def rest(self) -> None:
        """Stop waiting: what comes may take any time."""
        self._measure()
        self._share(0.0)

    def exit_now(self, status: int) -> NoReturn:
        """End the process without a word; the watchdog process writes how it ended."""
        self._share(0.0, exit_status=status)
        os._exit(status)

    def _measure(self) -> None:
        if self._fed:
            self._longest = max(self._longest, time.monotonic() - self._fed)
        self._fed = 0.0

    def _patience(self) -> float:
        return max(self._limit, SLOWEST * self._longest) if self._longest else self.first_seconds

    def _share(self, allowed: float, *, exit_status: int = 0, where: str = "") -> None:
        """Tell the watchdog process: see watchdog_process.Heartbeat."""
        self._beats += 1
        allowed = allowed if self._limit else 0.0
        LAYOUT.pack_into(self._shared, 0, self._beats, allowed, exit_status, where.encode())

    def _leave(self) -> None:
        if os.getpid() == self._pid:  # else a fork of this process ends
            self.feed(LEAVING_SECONDS, "the end of the process")


def _memory() -> int:
    """Return the descriptor of memory that can be shared: no full disk can take it away.

    Where Python was built without memfd_create (conda's, on an old glibc) it is a deleted file.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("watchdog")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, bytes(LAYOUT.size))
    return descriptor
