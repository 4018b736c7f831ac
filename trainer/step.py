"""One update."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function as phase

from data.batch import Batch
from trainer.distributed.engine import Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What an update did. Tensors are read only when a line is due: reading is a device sync."""

    loss: Tensor  # summed over this process's target tokens, shape ()
    nll: list[Tensor]  # the same of every target token, of each pass: shape (targets,)
    grad_norm: Tensor  # before clipping, shape ()
    finite: Tensor  # whether the update was made: no NaN or infinity on any process, shape ()


def train_step(
    engine: Engine, batches: Iterable[Batch], *, tokens: int, max_norm: float
) -> StepResult:
    """Make one update in which every target token of all passes and processes weighs the same.

    The gradient therefore does not depend on how the update is cut into passes or over processes.
    Where it is not finite, no weight moves on any process.

    Args:
        engine: the model, the optimizer and the other processes.
        batches: this process's passes; as many as on every other process.
        tokens: target tokens of all passes and processes; 0: all clips failed, no weight moves.
        max_norm: the gradient's norm is clipped to this.
    """
    processes = engine.accelerator.num_processes
    scale = processes / max(1, tokens)  # gradients are averaged over processes: undone here
    nll = [forward_backward(engine, batch, scale) for batch in batches]
    with phase("optimizer"):
        norm = engine.clip_gradient(max_norm)
        if tokens:
            engine.optimizer_step()
        else:
            engine.skip_update()
    loss = torch.stack([each.sum() for each in nll]).sum()
    return StepResult(loss=loss, nll=nll, grad_norm=norm, finite=torch.isfinite(norm))


def forward_backward(engine: Engine, batch: Batch, scale: float) -> Tensor:
    """Add a pass's gradient, scaled; return the loss of its target tokens. Shape: (targets,)."""
    with engine.gradient_sync(last=batch.is_last):
        with phase("forward"):
            nll: Tensor = engine.model(
                batch.features,
                batch.decoder_input_ids,
                batch.labels,
                targets=batch.targets,
            )
        with phase("backward"):
            engine.backward(poison_nonfinite(nll.sum()) * scale)
    return nll.detach()


def poison_nonfinite(loss: Tensor) -> Tensor:
    """Make the gradient of a loss that is not finite NaN: the all-reduce then tells everybody."""
    return loss * torch.where(torch.isfinite(loss), 1.0, torch.nan).detach()


def set_lr(optimizer: Any, lr: float) -> None:
    """Set the learning rate of the coming update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and the like for one update: nothing random is carried over, or saved."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))
