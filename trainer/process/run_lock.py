"""Lock a run's folder, so that only one process at a time trains the run.

The lock is a POSIX record lock (fcntl): it is released when the process ends in any way, worker
processes do not inherit it, and NFS forwards it to its server (`man 5 nfs`, `local_lock`).
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

LOCK = ".lock"  # in a run's folder; never deleted: another process may have locked it meanwhile
IS_LOCKED = (errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder while the body runs; only the main process takes it.

    Args:
        folder: of the run; created if it is missing.

    Raises:
        InputError: another process trains the run, or the folder cannot be created or written.
    """
    if launched_rank() != "0":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"run_dir={folder}: cannot be written ({error.strerror}): set --run_dir= to another "
            "folder"
        ) from error
    with file:
        _take(file, folder)
        yield


def _take(file: IO[str], folder: Path) -> None:
    """Lock the file, and write host, process id and time into it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(file)
        if error.errno in IS_LOCKED or _is_running_here(holder):
            raise InputError(_message(folder, holder)) from error
        print(
            f"warning: {folder} is on a file system without locks ({error.strerror}): make sure "
            "that no other machine trains this run"
        )
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    file.truncate(0)
    file.write(json.dumps(holder) + "\n")
    file.flush()


def _holder(file: IO[str]) -> dict[str, Any]:
    """Return what the process that holds the lock wrote, or an empty dict."""
    file.seek(0)
    try:
        holder = dict(json.loads(file.read()))
    except (ValueError, TypeError):
        return {}
    return holder if {"host", "pid", "since"} <= holder.keys() else {}


def _is_running_here(holder: dict[str, Any]) -> bool:
    """Return whether the last holder runs on this machine; used where there are no locks."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return bool(holder["pid"] != os.getpid())


def _message(folder: Path, holder: dict[str, Any]) -> str:
    who, stop = "another process", "stop it"
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']}, since {since},"
        stop = f"stop it with kill {holder['pid']} on {holder['host']}"
    return (
        f"{folder}: {who} trains this run: wait until it has ended, or {stop}; for another run "
        "set --run_dir= to another folder"
    )
