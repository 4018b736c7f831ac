"""Sums over all processes."""

import torch
from accelerate import Accelerator


def add_up(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Return the sums over all processes, in double precision; every process must call."""
    if accelerator.num_processes == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    sums: list[float] = accelerator.reduce(total, reduction="sum").tolist()
    return sums
