"""A copy of all that trains, in host memory: training goes on while it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import InputError
from trainer.checkpoint.pinned_copy import PinnedCopy, map_tensors, to_host
from trainer.distributed.fsdp import gather_state, is_sharded, scatter_state

# what Accelerate's load_state reads
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.bin"
SCALER = "scaler.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Weights, optimizer and loss scale of one moment."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    copied: torch.cuda.Event | None = None  # weights and optimizer are complete after it

    @classmethod
    def take(cls, accelerator: Accelerator, pinned: PinnedCopy | None = None) -> "Snapshot":
        """Copy everything; where some of it is cut up, every process must call.

        Args:
            accelerator: holds what is copied.
            pinned: copies beside training, into the memory of the snapshot before; None: the copy
                is complete at the return.
        """
        (model,) = accelerator._models
        (optimizer,) = accelerator._optimizers
        if is_sharded(accelerator):
            weights, moments = gather_state(model, optimizer.optimizer)
        else:
            weights, moments = accelerator.unwrap_model(model).state_dict(), optimizer.state_dict()
        state, copied = {"weights": _untied(weights), "optimizer": moments}, None
        if pinned is None:
            state = map_tensors(state, to_host)
        else:  # only parameters and moments wait for an optimizer before they change
            state["weights"] |= _buffers(accelerator.unwrap_model(model), state["weights"])
            state, copied = pinned.copy(state)
        return cls(
            weights={name: weight.contiguous() for name, weight in state["weights"].items()},
            optimizer=state["optimizer"],
            scaler=accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            copied=copied,
        )

    @property
    def bytes(self) -> int:
        """Return about how much will be written: weights, and what the optimizer keeps."""
        return _bytes(self.weights) + _bytes(self.optimizer)

    def write(self, folder: Path) -> None:
        """Write the files that load_state reads.

        Raises:
            InputError: a weight is not a number; the checkpoints before it are worth more.
        """
        if self.copied is not None:
            self.copied.synchronize()
        for name, weight in self.weights.items():
            if not bool(weight.isfinite().all()):
                raise InputError(f"{name} is no longer a number")
        save_file(self.weights, folder / WEIGHTS, metadata={"format": "pt"})
        torch.save(self.optimizer, folder / OPTIMIZER)
        if self.scaler is not None:
            torch.save(self.scaler, folder / SCALER)


def restore(accelerator: Accelerator, folder: Path, print_fn: Callable[[str], None]) -> None:
    """Load what write() wrote, in any mode and on any number of processes.

    Args:
        accelerator: takes it over.
        folder: a checkpoint's.
        print_fn: prints a sentence where the precision was changed to fp16, or from it.
    """
    scaler, held = accelerator.scaler, (folder / SCALER).is_file()
    if scaler is not None and not held:
        scale = f"{scaler.get_scale():,.0f}"
        print_fn(f"{folder}: was saved without fp16, so the loss scale begins afresh at {scale}")
    if scaler is None and held:
        print_fn(f"{folder}: was saved with fp16: its loss scale is not needed in this precision")
    if not is_sharded(accelerator):
        accelerator.scaler = scaler if held else None  # load_state asks for a file for each scaler
        # keys are written without DDP's prefix: a run may change its number of processes
        hook = accelerator.register_load_state_pre_hook(partial(_unwrap, accelerator))
        try:
            # tensor by tensor from the file's pages: "on_device", Accelerate's choice for several
            # GPUs, would put a second copy of everything on each
            accelerator.load_state(str(folder), map_location="cpu", load_kwargs={"mmap": True})
        finally:
            hook.remove()
            accelerator.scaler = scaler
        _leave_file(accelerator._optimizers[0].optimizer)
        return
    (model,) = accelerator._models
    (optimizer,) = accelerator._optimizers
    moments = read_moments(folder)
    scatter_state(model, optimizer.optimizer, load_file(folder / WEIGHTS), moments)
    _leave_file(optimizer.optimizer)
    if scaler is not None and held:
        scaler.load_state_dict(torch.load(folder / SCALER, weights_only=True))


def _unwrap(accelerator: Accelerator, models: list[Any], _folder: str) -> None:
    models[:] = [accelerator.unwrap_model(model) for model in models]


def read_moments(folder: Path) -> dict[str, Any]:
    """Return the optimizer of a checkpoint, in its file's pages: those of a machine share them."""
    held: dict[str, Any] = torch.load(
        folder / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True
    )
    return held


def _leave_file(optimizer: torch.optim.Optimizer) -> None:
    """Copy moments that lie in a checkpoint's file: on a CPU an optimizer takes them as they are.

    The checkpoint is deleted later, and on some network disks its pages are gone with it.
    """
    for moments in optimizer.state.values():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.device.type == "cpu":
                moments[name] = moment.clone()


def fill(module: nn.Module, path: Path) -> None:
    """Copy a file's weights into a module's.

    Raises:
        InputError: the file lacks weights, or holds others; of tied ones it holds one name.
    """
    held, own = load_file(path), module.state_dict()
    lacking, strange = module.load_state_dict(held, strict=False)
    found = {own[name].data_ptr() for name in held.keys() & own.keys()}
    wrong = [name for name in lacking if own[name].data_ptr() not in found] + strange
    if wrong:
        raise InputError(f"{path}: is of another model ({wrong[0]}): give the run's own")


def _untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of each tensor: safetensors refuses two of one memory, load_state ties them."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept


def _buffers(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of those buffers of a module that are in its state."""
    return {name: to_host(each) for name, each in module.named_buffers() if name in state}


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    inside = value.values() if isinstance(value, dict) else value
    return sum(map(_bytes, inside)) if isinstance(value, dict | list) else 0
