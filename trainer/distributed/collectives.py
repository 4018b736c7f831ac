"""Sum values over all processes, and destroy the process group at the end."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from eval.main_process import LONGEST_PAUSE, default_store, new_key
from trainer.process.signals import Stopped
from trainer.process.watchdog import EXIT_SECONDS, Watchdog

EXIT_WAIT_SECONDS = 5.0  # for other processes, before the process group is destroyed
PIECE = 2**26  # values that are converted for an all-reduce at once: 128 MiB in bf16


def sum_over_processes(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Return the sums over all processes, in double precision. All processes must call this.

    The all-reduce is on the CPU: reading a sum from a GPU would wait for all of its queued work.
    """
    if accelerator.num_processes == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(sums, group=_cpu_group())
    result: list[float] = sums.tolist()
    return result


def average(accelerator: Accelerator, tensor: Tensor, dtype: torch.dtype) -> None:
    """Average a tensor over all processes, in place. All processes must call this.

    Args:
        accelerator: of the processes.
        tensor: in float32. Shape: (values,).
        dtype: in which values are sent and added. bf16 needs 128 MiB more, for one piece at a time.
    """
    processes = accelerator.num_processes
    if processes == 1:
        return
    if dtype == tensor.dtype:
        torch.distributed.all_reduce(tensor)
        tensor /= processes
        return
    buffer = torch.empty(min(PIECE, len(tensor)), dtype=dtype, device=tensor.device)
    for piece in tensor.split(PIECE):
        converted = torch.div(piece, processes, out=buffer[: len(piece)])
        torch.distributed.all_reduce(converted)
        piece.copy_(converted)


@cache
def _cpu_group() -> Any:
    """Return a process group for the CPU; None means the default group, if that is gloo."""
    if torch.distributed.get_backend() == "gloo":
        return None
    return torch.distributed.new_group(backend="gloo")


@contextmanager
def closing_process_group(accelerator: Accelerator, watchdog: Watchdog) -> Iterator[None]:
    """Destroy the process group after the body, if it finished or was asked to stop.

    Only the body may hold the model. If DDP's Reducer were the last to hold the group, it would
    destroy it while holding the GIL and wait for gloo's thread, which may wait for the GIL. After
    any other exception nothing is destroyed: other processes may be in a collective.
    """
    try:
        yield
    except BaseException as error:
        watchdog.pause()
        if isinstance(error, Stopped):
            traceback.clear_frames(error.__traceback__)  # their variables hold the model
            _destroy_process_group(accelerator, watchdog)
        raise
    for tracker in accelerator.trackers:  # may upload, so not after a stop request
        tracker.finish()
    _destroy_process_group(accelerator, watchdog)


def _destroy_process_group(accelerator: Accelerator, watchdog: Watchdog) -> None:
    """Release everything that holds the process group, and then destroy it.

    This uses no collective: an upload may delay the main process for longer than its timeout.
    """
    watchdog.feed(EXIT_SECONDS, "the end of the run")
    accelerator.free_memory()  # also collects garbage
    if accelerator.num_processes > 1:
        _wait_for_other_processes(accelerator)
        _cpu_group.cache_clear()
    accelerator.state.destroy_process_group()


def _wait_for_other_processes(accelerator: Accelerator) -> None:
    """Wait until all processes have come here, and on the main process until all have left.

    A process that closes its connections at once can break the collective that it was the first to
    leave, and the main process may host the store. After EXIT_WAIT_SECONDS a missing process is
    assumed to be dead.
    """
    store, key, others = default_store(), new_key("end"), accelerator.num_processes - 1
    until = time.monotonic() + EXIT_WAIT_SECONDS
    arrived, left = f"{key}/arrived", f"{key}/left"
    awaited, count = (left, others) if accelerator.is_main_process else (arrived, others + 1)
    try:
        store.add(arrived, 1)
        while store.add(awaited, 0) < count and time.monotonic() < until:
            time.sleep(LONGEST_PAUSE / 10)
        store.add(left, 1)
    except RuntimeError:  # the process that hosts the store exited
        return
