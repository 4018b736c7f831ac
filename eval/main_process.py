"""Waiting for other processes without a collective.

A collective gives up after some minutes (NCCL: ten), and what a process waits for here may take
hours. The key-value store of the default process group has no such limit when it is only asked,
again and again, whether a key is there; signals are heeded in between.
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

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.1  # seconds between two looks at the store
READ_SECONDS = 5.0  # a main process that failed waits so long for the others to learn of it
LATE_SECONDS = 75.0  # a little more than NFS's acdirmax
_numbers = itertools.count()


class MainProcessAnswer(NamedTuple):
    """What the main process tells the others."""

    answer: Any = None
    mistake: str = ""  # of an InputError
    failure: str = ""  # of any other exception


def new_key(name: str) -> str:
    """Return a key that is not in the store. All processes ask for their keys in the same order."""
    return f"whisper_loop/{name}/{next(_numbers)}"


def default_store() -> Store:
    """Return the key-value store of the default process group."""
    return _get_default_store()


def wait_for(store: Store, key: str, check: Callable[[], None] = lambda: None) -> Any:
    """Wait until another process has put a value into the store, however long it takes.

    Args:
        store: the store.
        key: of the value.
        check: called between two looks; raises where nothing is to be waited for any more.

    Raises:
        RuntimeError: the process that holds the store has ended.
    """
    pause = FIRST_PAUSE
    while not holds(store, key):
        check()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return pickle.loads(store.get(key))


def holds(store: Store, key: str) -> bool:
    """Tell whether a key is in the store, without waiting for it.

    Raises:
        RuntimeError: the process that holds the store has ended.
    """
    try:
        return bool(store.check([key]))
    except DistNetworkError:
        told = "the main process has ended; what it printed last says why"
        raise RuntimeError(told) from None


def put(store: Store, key: str, value: Any) -> None:
    """Put a value into the store, for wait_for()."""
    # torch's stub knows of str alone; bytes come back from get() as they are
    store.set(key, pickle.dumps(value))  # type: ignore[arg-type]


def wait_until_visible(path: Path, seconds: float = LATE_SECONDS) -> Path:
    """Return a path that the main process wrote, once this process sees it.

    A client of NFS remembers that a name was not there, for up to a minute: listing the folders
    makes it ask the server again.

    Raises:
        InputError: it does not appear.
    """
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise InputError(
                f"{path}: the main process wrote it, and {socket.gethostname()} does not see it "
                f"after {seconds:g} s: set run_dir to a folder that all machines see"
            )
        for folder in reversed(path.parents):
            with suppress(OSError):  # it may be missing as well
                os.listdir(folder)
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return path


def run_on_main_process(accelerator: Accelerator, question: Callable[[], T]) -> T:
    """Ask on the main process alone, and return its answer on all; it may take any time.

    The main process does not wait for the others: it may end only after a collective that follows.

    Raises:
        InputError: the main process raised it.
        RuntimeError: the main process failed in another way.
    """
    if accelerator.num_processes == 1:
        return question()
    store, key = default_store(), new_key("answer")
    if accelerator.is_main_process:
        return _ask(store, key, question, accelerator.num_processes - 1)
    told: MainProcessAnswer = wait_for(store, key)
    if told.mistake or told.failure:
        store.add(f"{key}/read", 1)
    if told.mistake:
        raise InputError(told.mistake)
    if told.failure:
        raise RuntimeError(f"the main process failed: {told.failure}")
    answer: T = told.answer
    return answer


def _ask(store: Store, key: str, question: Callable[[], T], others: int) -> T:
    try:
        answer = question()
        put(store, key, MainProcessAnswer(answer))
    except BaseException as error:
        mistake = str(error) if isinstance(error, InputError) else ""
        put(
            store,
            key,
            MainProcessAnswer(mistake=mistake, failure=f"{type(error).__name__}: {error}"),
        )
        if isinstance(error, Exception):  # else it was asked to stop, and is not to wait
            _wait_until_read(store, key, others)
        raise
    return answer


def _wait_until_read(store: Store, key: str, others: int) -> None:
    """Wait a little: the store may end with this process, and what was told in it."""
    end = time.monotonic() + READ_SECONDS
    while store.add(f"{key}/read", 0) < others and time.monotonic() < end:
        time.sleep(LONGEST_PAUSE)
