"""Sums over all processes, and their end."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator

from eval.main_process import LONGEST_PAUSE, default_store, new_key
from trainer.process.signals import Stopped
from trainer.process.watchdog import LEAVING_SECONDS, Watchdog

OTHERS_SECONDS = 5.0  # a process waits so long for the others to read the last that it sent them


def add_up(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Return the sums over all processes, in double precision; every process must call.

    They are made on the CPU: to read a sum from a GPU would wait for all that it has to do.
    """
    if accelerator.num_processes == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total, group=_cpu_group())
    sums: list[float] = total.tolist()
    return sums


@cache
def _cpu_group() -> Any:
    """Return a process group that works on the CPU; None is the default one, where that does."""
    if torch.distributed.get_backend() == "gloo":
        return None
    return torch.distributed.new_group(backend="gloo")


@contextmanager
def process_group_ended(accelerator: Accelerator, watchdog: Watchdog) -> Iterator[None]:
    """End the process group after the body, where that is through or was asked to stop.

    The model has to be the body's alone: DDP's Reducer, were it the last to hold the group, would
    destroy it with Python's lock held and wait for gloo's thread, which may wait for that lock.
    After any other exception the process ends as it is: others may be in a collective.
    """
    try:
        yield
    except BaseException as error:
        watchdog.rest()
        if isinstance(error, Stopped):
            traceback.clear_frames(error.__traceback__)  # their variables hold the model
            _end(accelerator, watchdog)
        raise
    for tracker in accelerator.trackers:  # may upload: whoever asks to stop does not wait for that
        tracker.finish()
    _end(accelerator, watchdog)


def _end(accelerator: Accelerator, watchdog: Watchdog) -> None:
    """Release all that holds the process group, and only then the group.

    Nothing here is collective: an upload may keep the main process for longer than that would wait.
    """
    watchdog.feed(LEAVING_SECONDS, "the end of the run")
    accelerator.free_memory()  # collects cycles as well
    if accelerator.num_processes > 1:
        _let_others_read(accelerator)
        _cpu_group.cache_clear()
    accelerator.state.destroy_process_group()


def _let_others_read(accelerator: Accelerator) -> None:
    """Wait until all are here, the main process, which may hold the store, until all are gone.

    A process that closes its connections at once can break the collective that it was the first to
    leave. Who is missing for long is dead, or on its way here alone.
    """
    store, key, others = default_store(), new_key("end"), accelerator.num_processes - 1
    until = time.monotonic() + OTHERS_SECONDS
    here, gone = f"{key}/here", f"{key}/gone"
    awaited, count = (gone, others) if accelerator.is_main_process else (here, others + 1)
    try:
        store.add(here, 1)
        while store.add(awaited, 0) < count and time.monotonic() < until:
            time.sleep(LONGEST_PAUSE / 10)
        store.add(gone, 1)
    except RuntimeError:  # the process that held the store is gone: nobody is left to wait for
        return
