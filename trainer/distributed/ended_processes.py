"""Detect processes that exited: each sends heartbeats to the key-value store."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.distributed import Store

from data.errors import InputError
from eval.main_process import has_key, put, wait_for

HEARTBEAT_SECONDS = 1.0  # between two heartbeats, and between two checks
TIMEOUT_SECONDS = 120.0  # without a heartbeat: the process exited
FIRST_TIMEOUT_SECONDS = 1_800.0  # without a first one: another machine may still load its model


@contextmanager
def send_heartbeats(store: Store, key: str, rank: int) -> Iterator[None]:
    """Send heartbeats to the store from a thread; on an exception, tell the main process why.

    Args:
        store: the store that the processes share.
        key: prefix of the keys.
        rank: of this process.
    """
    stopped = threading.Event()
    thread = threading.Thread(
        target=_send, args=(store, f"{key}/alive/{rank}", stopped), daemon=True
    )
    thread.start()
    try:
        yield
    except Exception as error:
        message = str(error)
        if not isinstance(error, InputError):
            message = f"process {rank} failed: {type(error).__name__}: {error}"
        put(store, f"{key}/failed", (isinstance(error, InputError), message))
        raise
    finally:
        stopped.set()
        thread.join()


def _send(store: Store, key: str, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            store.add(key, 1)
        except RuntimeError:  # the store is gone: the main thread finds out by itself
            return
        stopped.wait(HEARTBEAT_SECONDS)


class HeartbeatMonitor:
    """Checks on the main process that the other processes are alive."""

    def __init__(self, store: Store, key: str, ranks: Iterable[int]) -> None:
        """Create a monitor.

        Args:
            store: the store that the processes share.
            key: prefix of the keys, as for send_heartbeats().
            ranks: of the processes to monitor.
        """
        self._store = store
        self._key = key
        now = time.monotonic()
        self._beats = dict.fromkeys(ranks, (0, now))  # their number, time of the last
        self._last_check = now

    def check(self) -> None:
        """Raise if a process exited or failed. Calls within a second of the last check are free.

        Raises:
            InputError: a process raised it, or sends no heartbeats.
            RuntimeError: a process failed in another way.
        """
        now = time.monotonic()
        if now - self._last_check < HEARTBEAT_SECONDS:
            return
        self._last_check = now
        if has_key(self._store, f"{self._key}/failed"):
            is_input_error, message = wait_for(self._store, f"{self._key}/failed")
            raise InputError(message) if is_input_error else RuntimeError(message)
        for rank, (before, since) in self._beats.items():
            beats = self._store.add(f"{self._key}/alive/{rank}", 0)
            if beats != before:
                self._beats[rank] = beats, now
            elif now - since > (TIMEOUT_SECONDS if beats else FIRST_TIMEOUT_SECONDS):
                raise InputError(
                    f"process {rank} has not responded for {now - since:.0f} s while audio files "
                    "were checked: read its last output; if it ran out of memory, set data.workers "
                    "lower"
                )
