"""Watchdog: ends a training process that makes no progress, and prints its stacks."""

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

STDERR = 2  # the file descriptor: a progress display may have replaced sys.stderr
STALL_FACTOR = 5.0  # a stall is longer than the longest pass so far, times this
FIRST_SECONDS = 600.0  # limit of the first pass, which compiles kernels and opens files
EXIT_SECONDS = 120.0  # from the last line of Python to the end of the process


class Watchdog:
    """Ends the process and prints the stacks of all threads if it is not fed in time.

    When a process dies or hangs, the others wait in the gradient's all-reduce, some forever: each
    has its own watchdog. The watchdog is another process (watchdog_process): a timer in this one
    would run on while the process is suspended, and could not record that it was killed.
    """

    def __init__(
        self, seconds: float, status: Path | None = None, checkpoints: Path | None = None
    ) -> None:
        """Start the watchdog process.

        Args:
            seconds: the limit; 0 sets no limit, and only status.json is written.
            status: path of status.json, on the process that writes it.
            checkpoints: folder of the checkpoints; the limit is longer while another process saves
                there after an error.
        """
        self._limit = seconds
        self._longest_pass = 0.0
        self._fed_at = 0.0
        self._feeds = 0
        self._pid = os.getpid()
        descriptor = _shared_memory()
        self._shared = mmap.mmap(descriptor, LAYOUT.size)
        faulthandler.register(signal.SIGUSR2, file=STDERR, all_threads=True)
        paths = [str(path.absolute()) if path else "" for path in (status, checkpoints)]
        arguments = [str(self._pid), str(descriptor), *paths]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog_process.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # no Ctrl-C, Ctrl-Z or launcher's signals
        )
        os.close(descriptor)
        atexit.register(self._exit)  # runs after all threads were joined

    @property
    def first_seconds(self) -> float:
        """Return the limit in seconds of a first pass, or of a batch of an evaluation."""
        return max(self._limit, FIRST_SECONDS)

    def feed(self, limit: float | None = None, where: str = "an update") -> None:
        """Restart the time limit.

        Args:
            limit: in seconds, until the next call. None derives it from the longest pass so far.
            where: phase of the run, for the message.
        """
        self._measure()
        self._fed_at = 0.0 if limit else time.monotonic()
        self._write(limit or self._pass_limit(), where=where)

    def pause(self) -> None:
        """Set no limit until the next feed()."""
        self._measure()
        self._write(0.0)

    def exit_now(self, status: int) -> NoReturn:
        """End the process at once; the watchdog process writes status.json."""
        self._write(0.0, exit_status=status)
        os._exit(status)

    def _measure(self) -> None:
        """Update the longest pass."""
        if self._fed_at:
            self._longest_pass = max(self._longest_pass, time.monotonic() - self._fed_at)
        self._fed_at = 0.0

    def _pass_limit(self) -> float:
        if not self._longest_pass:
            return self.first_seconds
        return max(self._limit, STALL_FACTOR * self._longest_pass)

    def _write(self, allowed: float, *, exit_status: int = 0, where: str = "") -> None:
        """Write a watchdog_process.HeartbeatState for the watchdog process."""
        self._feeds += 1
        allowed = allowed if self._limit else 0.0
        LAYOUT.pack_into(self._shared, 0, self._feeds, allowed, exit_status, where.encode())

    def _exit(self) -> None:
        if os.getpid() == self._pid:  # not in a fork of this process
            self.feed(EXIT_SECONDS, "the end of the process")


def _shared_memory() -> int:
    """Return the file descriptor of shared memory, which does not depend on a disk.

    If Python was built without memfd_create (conda's, on an old glibc), it is a deleted file.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("watchdog")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, bytes(LAYOUT.size))
    return descriptor
