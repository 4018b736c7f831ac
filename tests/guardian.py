"""Kills the processes of a test session when the session ends or is interrupted.

Ctrl-C ends pytest while a test waits for a program, and pytest-xdist kills its workers: neither
reaches what a launcher of that program started. A process knows whose it is by its environment,
which all that it starts inherit. This file runs in a process of its own and imports nothing large.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "WHISPER_LOOP_TESTS"  # environment variable: the session that a process belongs to
POLL_SECONDS = 0.5
ROUNDS = 20  # what is killed may have started something meanwhile


def marked(mark: str) -> list[int]:
    """Return the processes that were started with this environment variable, as NAME=VALUE."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def main(mark: str) -> None:
    """Wait until the parent closes the pipe or exits, and kill the processes that it left.

    The pipe alone would not do: a fork of that process holds it open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    while os.getppid() == parent and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        pass
    for _ in range(ROUNDS):
        if not (left := marked(mark)):
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
