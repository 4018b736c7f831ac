"""Which processes are alive: each counts in the key-value store, and the main process looks."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.distributed import Store

from data.errors import InputError
from eval.main_process import has_key, put, wait_for

BEAT_SECONDS = 1.0  # between two signs of life of a process, and between two looks at them
SILENT_SECONDS = 120.0  # without one: the process has ended
ABSENT_SECONDS = 1_800.0  # without a first one: another machine may still have to load its model


@contextmanager
def send_heartbeats(store: Store, key: str, rank: int) -> Iterator[None]:
    """Send heartbeats to the store from a thread; on an exception, tell the main process why.

    Args:
        store: the store that the processes share.
        key: what all keys here begin with.
        rank: of this process.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, f"{key}/alive/{rank}", ended), daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, InputError)
        told = str(error) if mistake else f"process {rank} failed: {type(error).__name__}: {error}"
        put(store, f"{key}/failed", (mistake, told))
        raise
    finally:
        ended.set()
        thread.join()


def _beat(store: Store, key: str, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            store.add(key, 1)
        except RuntimeError:  # the store is gone: the main thread notices when it uses it
            return
        ended.wait(BEAT_SECONDS)


class HeartbeatMonitor:
    """Notices on the main process that another one has ended."""

    def __init__(self, store: Store, key: str, ranks: Iterable[int]) -> None:
        """Take the store, what its keys begin with, and who gives signs of life in it."""
        self._store = store
        self._key = key
        now = time.monotonic()
        self._heard = dict.fromkeys(ranks, (0, now))  # beats, and when the last one was new
        self._looked = now

    def check(self) -> None:
        """Raise where a process has ended. Calling this is cheap: it looks once a second.

        Raises:
            InputError: a process raised it, or gives no sign of life.
            RuntimeError: a process failed in another way.
        """
        now = time.monotonic()
        if now - self._looked < BEAT_SECONDS:
            return
        self._looked = now
        if has_key(self._store, f"{self._key}/failed"):
            mistake, told = wait_for(self._store, f"{self._key}/failed")
            raise InputError(told) if mistake else RuntimeError(told)
        for rank, (before, since) in self._heard.items():
            beats = self._store.add(f"{self._key}/alive/{rank}", 0)
            if beats != before:
                self._heard[rank] = beats, now
            elif now - since > (SILENT_SECONDS if beats else ABSENT_SECONDS):
                raise InputError(
                    f"process {rank} has not responded for {now - since:.0f} s while audio files "
                    "were checked: read its last output; if it ran out of memory, set data.workers "
                    "lower"
                )
