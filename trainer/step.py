"""One update: forward and backward passes, gradient clipping, and the optimizer step."""

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
    """The result of an update, as tensors on the device: reading one synchronizes with it."""

    loss: Tensor  # summed over this process's target tokens, shape ()
    nll: list[Tensor]  # loss of each target token, for each pass: shape (targets,)
    grad_norm: Tensor  # before clipping, shape ()
    finite: Tensor  # whether the weights were updated: no NaN or infinity anywhere, shape ()


def train_step(
    engine: Engine, batches: Iterable[Batch], *, tokens: int, max_norm: float
) -> StepResult:
    """Make one update, in which every target token of all passes and processes weighs the same.

    The gradient therefore does not depend on how the update is cut into passes and over processes.
    If it is not finite, no process changes its weights.

    Args:
        engine: the model, the optimizer and the other processes.
        batches: this process's forward passes, as many as on every other process.
        tokens: target tokens of all passes and processes. 0 (all clips failed) skips the update.
        max_norm: norm that the gradient is clipped to.
    """
    processes = engine.accelerator.num_processes
    scale = processes / max(1, tokens)  # DDP and FSDP average gradients: this makes them sums
    engine.begin_update()
    nll = [forward_backward(engine, batch, scale) for batch in batches]
    with phase("all-reduce"):
        engine.average_gradient()
    with phase("optimizer"):
        grad_norm = engine.clip_gradient(max_norm)
        if tokens:
            engine.optimizer_step()
        else:
            engine.skip_update()
    loss = torch.stack([losses.sum() for losses in nll]).sum()
    return StepResult(loss=loss, nll=nll, grad_norm=grad_norm, finite=torch.isfinite(grad_norm))


def forward_backward(engine: Engine, batch: Batch, scale: float) -> Tensor:
    """Add the scaled gradient of a pass; return the loss of its target tokens, shape (targets,)."""
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
    """Make the gradient NaN if the loss is not finite; all processes get it by the all-reduce."""
    return loss * torch.where(torch.isfinite(loss), 1.0, torch.nan).detach()


def set_lr(optimizer: Any, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and other randomness of one update; checkpoints thus need no random state."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))
