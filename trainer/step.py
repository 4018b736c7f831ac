"""One update."""

import zlib
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.profiler import record_function as phase

from data.batch import Batch
from trainer.distributed import deepspeed_zero2 as zero
from trainer.distributed.collectives import add_up


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What all processes bring to an update, and whether it is to be made."""

    tokens: int  # target tokens
    audio_seconds: float  # of real audio
    dropped: int  # clips that failed, named for the first time
    stop: bool  # some process was asked to stop
    slow: bool  # some process takes long for an update: stops are heeded between passes too


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What an update did. Tensors are read only when a line is due: reading is a device sync."""

    loss: Tensor  # summed over this process's target tokens, shape ()
    nll: list[Tensor]  # the same of every target token, of each pass: shape (targets,)
    grad_norm: Tensor  # before clipping, shape ()
    finite: Tensor  # whether the update was made: no NaN or infinity on any process, shape ()


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    batches: Iterable[Batch],
    *,
    tokens: int,
    max_norm: float,
) -> StepResult:
    """Make one update in which every target token of all passes and processes weighs the same.

    The gradient therefore does not depend on how the update is cut into passes or over processes.
    Where it is not finite, no weight moves on any process.

    Args:
        accelerator: knows the other processes, autocast and loss scaling.
        model: a prepared TrainingModule.
        optimizer: the prepared optimizer.
        batches: this process's passes; as many as on every other process.
        tokens: target tokens of all passes and processes.
        max_norm: the gradient's norm is clipped to this.
    """
    nll: list[Tensor] = []
    share = accelerator.num_processes / max(1, tokens)  # DDP averages over processes: undone here
    for batch in batches:
        nll.append(_accumulate(accelerator, model, batch, share))
    with phase("optimizer"):
        norm = _move(accelerator, model, optimizer, tokens=tokens, max_norm=max_norm)
    loss = torch.stack([each.sum() for each in nll]).sum()
    return StepResult(loss=loss, nll=nll, grad_norm=norm, finite=torch.isfinite(norm))


def _accumulate(accelerator: Accelerator, model: nn.Module, batch: Batch, share: float) -> Tensor:
    """Add a pass's gradient, times its share; return the loss of its target tokens."""
    with nullcontext() if batch.last else accelerator.no_sync(model):
        with phase("forward"):
            nll: Tensor = model(
                batch.features,
                batch.decoder_input_ids,
                batch.labels,
                targets=batch.targets,
                repair=batch.repair,
            )
        with phase("backward"):
            backward(accelerator, model, _infect(nll.sum()) * share, last=batch.last)
    return nll.detach()


def _move(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, *, tokens: int, max_norm: float
) -> Tensor:
    """Make the update where the gradient is finite; return its norm before clipping.

    Without tokens all clips have failed, and momentum alone would move the weights.
    """
    if zero.is_zero(accelerator):
        if not tokens:
            set_lr(optimizer, 0.0)
        return zero.move(model, max_norm)
    norm = _whole(accelerator.clip_grad_norm_(model.parameters(), max_norm))
    if accelerator.scaler is None:  # a loss scaler tells the optimizer by itself
        _bare(optimizer).found_inf = (~torch.isfinite(norm)).float()  # it then does nothing
    if tokens:
        optimizer.step()
        optimizer.zero_grad()
    else:
        discard_update(accelerator, optimizer)
    return norm


def discard_update(accelerator: Accelerator, optimizer: Any) -> None:
    """Drop the gradients of an update that is not made, and reset the GradScaler's state of it.

    A GradScaler that saw unscale_() and no update() raises at the next update.
    """
    optimizer.zero_grad()
    scaler = accelerator.scaler
    if scaler is not None:
        scaler.scale(torch.ones((), device=accelerator.device))  # it may not have begun yet
        scaler.update(scaler.get_scale())  # the scale stays


def backward(accelerator: Accelerator, model: nn.Module, loss: Tensor, *, last: bool) -> None:
    """Add a pass's gradient; with an update's last one those of all processes are averaged."""
    if zero.is_zero(accelerator):
        zero.backward(model, loss, last=last)
    else:
        accelerator.backward(loss)


def gather_totals(
    accelerator: Accelerator, batches: Sequence[Batch], *, dropped: int, stop: bool, slow: bool
) -> Totals:
    """Add up what the processes bring. With one process this costs nothing."""
    sums = add_up(
        accelerator,
        [
            float(sum(sum(batch.tokens) for batch in batches)),
            sum(sum(batch.seconds) for batch in batches),
            float(dropped),
            float(stop),
            float(slow),
        ],
    )
    return Totals(
        tokens=int(sums[0]),
        audio_seconds=sums[1],
        dropped=int(sums[2]),
        stop=sums[3] > 0,
        slow=sums[4] > 0,
    )


def set_lr(optimizer: Any, lr: float) -> None:
    """Set the learning rate of the coming update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and the like for one update: nothing random is carried over, or saved."""
    torch.manual_seed(zlib.crc32(f"{seed} {step} {rank}".encode()))


def skip_update(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> None:
    """End an update whose loss was NaN; the optimizer takes the memory that it will need."""
    if zero.is_zero(accelerator):
        zero.move(model, max_norm=1.0)
        return
    bare = _bare(optimizer)  # Accelerate's, with a loss scaler, might skip the step and its moments
    bare.found_inf = torch.ones((), device=accelerator.device)
    bare.step()
    del bare.found_inf
    discard_update(accelerator, optimizer)


def _whole(norm: Tensor) -> Tensor:
    """Return a norm that FSDP keeps in parts, one a process."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _bare(optimizer: Any) -> Any:
    """Return torch's optimizer inside of Accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _infect(nll: Tensor) -> Tensor:
    """Make the gradient of a loss that is not finite NaN: the all-reduce then tells everybody."""
    return nll * torch.where(torch.isfinite(nll), 1.0, torch.nan).detach()
