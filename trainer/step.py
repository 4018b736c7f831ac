"""One update."""

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.profiler import record_function as phase

from data.utterance import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What an update did. Tensors are read only when a line is due: reading is a device sync."""

    loss: Tensor  # summed over this process's target tokens, shape ()
    grad_norm: Tensor  # before clipping, shape ()
    tokens: int  # target tokens of all processes
    audio_seconds: float  # of all processes


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    batches: Sequence[Batch],
    *,
    lr: float,
    max_norm: float,
) -> StepResult:
    """Make one update in which every target token of all passes and processes weighs the same.

    The gradient therefore does not depend on how the update is cut into passes or over processes.

    Args:
        accelerator: knows the other processes, autocast and loss scaling.
        model: a prepared TrainingModule.
        optimizer: the prepared optimizer.
        batches: this process's passes; as many as on every other process.
        lr: learning rate of this update.
        max_norm: the gradient's norm is clipped to this.
    """
    tokens, audio_seconds = _totals(accelerator, batches)
    loss = torch.zeros((), device=accelerator.device)
    for batch in batches:
        with phase("to device"):
            batch.to(accelerator.device)
        with nullcontext() if batch.last else accelerator.no_sync(model):
            with phase("forward"):
                nll = model(batch.features, batch.decoder_input_ids, batch.labels)
            with phase("backward"):  # DDP averages over processes: undone here
                accelerator.backward(nll * (accelerator.num_processes / max(1, tokens)))
        loss += nll.detach()
    with phase("optimizer"):
        for group in optimizer.param_groups:
            group["lr"] = lr
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
    return StepResult(loss=loss, grad_norm=grad_norm, tokens=tokens, audio_seconds=audio_seconds)


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and the like for one update: nothing random is carried over, or saved."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))


def _totals(accelerator: Accelerator, batches: Sequence[Batch]) -> tuple[int, float]:
    """Return target tokens and audio seconds over all passes and processes."""
    mine = [float(sum(sum(b.tokens) for b in batches)), sum(sum(b.seconds) for b in batches)]
    if accelerator.num_processes == 1:
        return int(mine[0]), mine[1]
    total = torch.tensor(mine, dtype=torch.float64, device=accelerator.device)
    tokens, audio_seconds = accelerator.reduce(total, reduction="sum").tolist()
    return int(tokens), audio_seconds
