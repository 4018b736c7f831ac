"""Wait for the main process without a collective.

A collective times out after some minutes (NCCL: ten), and the work that a process waits for here
may take hours. Polling the key-value store of the default process group has no such limit, and
signals are handled between two polls.
"""

import itertools
import os
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from accelerate import Accelerator
from torch.distributed import DistNetworkError, Store
from torch.distributed.distributed_c10d import _get_default_store

from data.errors import InputError

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.1  # seconds between two polls of the store
READ_SECONDS = 5.0  # for which a failed main process waits until the others have read its error
VISIBLE_SECONDS = 75.0  # a little more than NFS's acdirmax
_numbers = itertools.count()


class MainProcessResult(NamedTuple):
    """The result or the error of the main process, as the others read it from the store."""

    value: Any = None
    input_error: str = ""  # message of an InputError
    failure: str = ""  # message of any other exception


def new_key(name: str) -> str:
    """Return an unused key of the store. All processes must call this in the same order."""
    return f"whisper_loop/{name}/{next(_numbers)}"


def default_store() -> Store:
    """Return the key-value store of the default process group."""
    return _get_default_store()


def wait_for(store: Store, key: str, check: Callable[[], None] = lambda: None) -> Any:
    """Wait without a time limit until another process has put a value into the store.

    Args:
        store: the store.
        key: of the value.
        check: called between two polls; may raise to stop waiting.

    Raises:
        RuntimeError: the process that hosts the store exited.
    """
    pause = FIRST_PAUSE
    while not has_key(store, key):
        check()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return pickle.loads(store.get(key))


def has_key(store: Store, key: str) -> bool:
    """Return whether a key is in the store, without waiting for it.

    Raises:
        RuntimeError: the process that hosts the store exited.
    """
    try:
        return bool(store.check([key]))
    except DistNetworkError:
        message = "the main process exited; its last output says why"
        raise RuntimeError(message) from None


def put(store: Store, key: str, value: Any) -> None:
    """Put a value into the store, for wait_for()."""
    # torch's stub allows str only; get() returns bytes unchanged
    store.set(key, pickle.dumps(value))  # type: ignore[arg-type]


def wait_until_visible(path: Path, seconds: float = VISIBLE_SECONDS) -> Path:
    """Wait until this process sees a path that the main process wrote, and return the path.

    An NFS client caches for up to a minute that a name does not exist. Listing the folders makes it
    ask the server again.

    Args:
        path: a file or folder.
        seconds: the longest wait.

    Raises:
        InputError: the path did not appear in time.
    """
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise InputError(
                f"{path}: the main process wrote it, but {socket.gethostname()} does not see it "
                f"after {seconds:g} s: set run_dir to a folder that all machines share"
            )
        for folder in reversed(path.parents):
            with suppress(OSError):  # the folder may be missing too
                os.listdir(folder)
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return path


def run_on_main_process(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Call a function on the main process only, and return its result on all processes.

    The function may take any time. The main process does not wait for the others: it may exit only
    after a later collective.

    Raises:
        InputError: the function raised it on the main process.
        RuntimeError: the function raised another exception.
    """
    if accelerator.num_processes == 1:
        return function()
    store, key = default_store(), new_key("answer")
    if accelerator.is_main_process:
        return _run_and_put(store, key, function, accelerator.num_processes - 1)
    result: MainProcessResult = wait_for(store, key)
    if result.input_error or result.failure:
        store.add(f"{key}/read", 1)
    if result.input_error:
        raise InputError(result.input_error)
    if result.failure:
        raise RuntimeError(f"the main process failed: {result.failure}")
    value: T = result.value
    return value


def _run_and_put(store: Store, key: str, function: Callable[[], T], others: int) -> T:
    try:
        value = function()
        put(store, key, MainProcessResult(value))
    except BaseException as error:
        message = str(error) if isinstance(error, InputError) else ""
        failure = f"{type(error).__name__}: {error}"
        put(store, key, MainProcessResult(input_error=message, failure=failure))
        if isinstance(error, Exception):  # KeyboardInterrupt and SystemExit must not wait
            _wait_until_read(store, key, others)
        raise
    return value


def _wait_until_read(store: Store, key: str, others: int) -> None:
    """Wait up to READ_SECONDS for the other processes: the store may end with this process."""
    end = time.monotonic() + READ_SECONDS
    while store.add(f"{key}/read", 0) < others and time.monotonic() < end:
        time.sleep(LONGEST_PAUSE)
