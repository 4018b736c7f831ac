"""One process trains a run at a time: the others are told who does.

A POSIX record lock (fcntl): it ends with the process, whatever ends that, worker processes do not
inherit it, and NFS passes it on to its server (`man 5 nfs`, `local_lock`).
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data.errors import InputError, launched_rank

LOCK = ".lock"  # in a run's folder; never deleted: it may be another process's by then
TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder while the body runs; only the main process takes it.

    Args:
        folder: the run's; it is made.

    Raises:
        InputError: another process trains the run, or the folder cannot be made or written.
    """
    if launched_rank() != "0":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"run_dir={folder}: cannot be written ({error.strerror}): name another with --run_dir="
        ) from error
    with file:
        _take(file, folder)
        yield


def _take(file: IO[str], folder: Path) -> None:
    """Lock the file, and write into it who holds it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(file)
        if error.errno in TAKEN or _lives_here(holder):
            raise InputError(_told(folder, holder)) from error
        print(
            f"warning: {folder} is on a file system without locks ({error.strerror}): make sure "
            "that no other machine trains this run"
        )
    me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    file.truncate(0)
    file.write(json.dumps(me) + "\n")
    file.flush()


def _holder(file: IO[str]) -> dict[str, Any]:
    """Return what the process that holds the lock wrote, or nothing before it has."""
    file.seek(0)
    try:
        told = dict(json.loads(file.read()))
    except (ValueError, TypeError):
        return {}
    return told if {"host", "pid", "since"} <= told.keys() else {}


def _lives_here(holder: dict[str, Any]) -> bool:
    """Tell, where there are no locks, whether the last holder is a process of this machine."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return bool(holder["pid"] != os.getpid())


def _told(folder: Path, holder: dict[str, Any]) -> str:
    who, stop = "another process", "stop it"
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']}, since {since},"
        stop = f"stop it with kill {holder['pid']} on {holder['host']}"
    return (
        f"{folder}: {who} trains this run: wait until it has ended, or {stop}; for another run "
        "name another folder with --run_dir="
    )
