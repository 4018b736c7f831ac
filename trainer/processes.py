"""Sums over all processes."""

from functools import cache
from typing import Any

import torch
from accelerate import Accelerator


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
