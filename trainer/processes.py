"""What all processes have to agree on."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from data.errors import InputError

T = TypeVar("T")


def decide(accelerator: Accelerator, question: Callable[[], T]) -> T:
    """Ask on the main process alone, and return its answer on all.

    Raises:
        InputError: the main process raised it; where the others went on, they would wait for ever.
    """
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told[0] = question()
        except InputError as error:
            told[1] = str(error)
    broadcast_object_list(told)
    if told[1] is not None:
        raise InputError(told[1])
    answer: T = told[0]
    return answer


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
