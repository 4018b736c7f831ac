"""Snapshot: a copy of weights, optimizer and loss scaler in host memory; and its restore."""

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
from trainer.checkpoint.pinned_memory import PinnedCopy, map_tensors, to_host
from trainer.distributed.fsdp import gather_state, is_sharded, scatter_state

# file names that Accelerate's load_state reads
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.bin"
SCALER = "scaler.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """State dicts of the model, the optimizer and the loss scaler after an update."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    copied: torch.cuda.Event | None = None  # weights and optimizer may be read after it

    @classmethod
    def take(cls, accelerator: Accelerator, pinned: PinnedCopy | None = None) -> "Snapshot":
        """Copy the state to host memory; with FSDP, all processes must call this.

        Args:
            accelerator: holds the model, the optimizer and the loss scaler.
            pinned: copies during training, into the memory of the previous snapshot. With None, the
                copy is complete at the return.
        """
        (model,) = accelerator._models
        (optimizer,) = accelerator._optimizers
        if is_sharded(accelerator):
            weights, moments = gather_state(model, optimizer.optimizer)
        else:
            weights, moments = accelerator.unwrap_model(model).state_dict(), optimizer.state_dict()
        state, copied = {"weights": _without_tied(weights), "optimizer": moments}, None
        if pinned is None:
            state = map_tensors(state, to_host)
        else:  # buffers are copied now: they change before the optimizer's step, which waits
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
        """Return the approximate size of the files, without the loss scaler."""
        return _bytes(self.weights) + _bytes(self.optimizer)

    def write(self, folder: Path) -> None:
        """Write the files that load_state reads.

        Raises:
            InputError: a weight is not finite; earlier checkpoints are worth more.
        """
        if self.copied is not None:
            self.copied.synchronize()
        for name, weight in self.weights.items():
            if not bool(weight.isfinite().all()):
                raise InputError(f"{name} contains NaN or infinite values")
        save_file(self.weights, folder / WEIGHTS, metadata={"format": "pt"})
        torch.save(self.optimizer, folder / OPTIMIZER)
        if self.scaler is not None:
            torch.save(self.scaler, folder / SCALER)


def restore(accelerator: Accelerator, folder: Path, print_fn: Callable[[str], None]) -> None:
    """Load what Snapshot.write() wrote, with FSDP or without, on any number of processes.

    Args:
        accelerator: holds the model, the optimizer and the loss scaler.
        folder: of the checkpoint.
        print_fn: prints a message if the precision was changed to or from fp16.
    """
    scaler, has_scale = accelerator.scaler, (folder / SCALER).is_file()
    if scaler is not None and not has_scale:
        scale = f"{scaler.get_scale():,.0f}"
        print_fn(f"{folder}: was saved without fp16: the loss scale starts again at {scale}")
    if scaler is None and has_scale:
        print_fn(f"{folder}: was saved with fp16: its loss scale is not needed in this precision")
    if not is_sharded(accelerator):
        accelerator.scaler = scaler if has_scale else None  # load_state requires a file for it
        # keys are saved without DDP's prefix: the number of processes may change
        hook = accelerator.register_load_state_pre_hook(partial(_unwrap, accelerator))
        try:
            # mmap reads one tensor at a time. "on_device", Accelerate's default for several GPUs,
            # would put a second copy of the state on each of them
            accelerator.load_state(str(folder), map_location="cpu", load_kwargs={"mmap": True})
        finally:
            hook.remove()
            accelerator.scaler = scaler
        _copy_from_mmap(accelerator._optimizers[0].optimizer)
        return
    (model,) = accelerator._models
    (optimizer,) = accelerator._optimizers
    moments = read_optimizer(folder)
    scatter_state(model, optimizer.optimizer, load_file(folder / WEIGHTS), moments)
    _copy_from_mmap(optimizer.optimizer)
    if scaler is not None and has_scale:
        scaler.load_state_dict(torch.load(folder / SCALER, weights_only=True))


def _unwrap(accelerator: Accelerator, models: list[Any], _folder: str) -> None:
    models[:] = [accelerator.unwrap_model(model) for model in models]


def read_optimizer(folder: Path) -> dict[str, Any]:
    """Return the optimizer's state dict, memory-mapped: processes of a machine share its pages."""
    state: dict[str, Any] = torch.load(
        folder / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True
    )
    return state


def _copy_from_mmap(optimizer: torch.optim.Optimizer) -> None:
    """Copy CPU moments to memory: load_state_dict keeps the memory-mapped tensors themselves.

    The checkpoint is deleted later, and on some network disks the mapped pages go with it.
    """
    for moments in optimizer.state.values():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.device.type == "cpu":
                moments[name] = moment.clone()


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file of weights into a module; of tied weights the file contains one name.

    Raises:
        InputError: weights are missing or unexpected.
    """
    saved, own = load_file(path), module.state_dict()
    missing, unexpected = module.load_state_dict(saved, strict=False)
    loaded = {own[name].data_ptr() for name in saved.keys() & own.keys()}
    wrong = [name for name in missing if own[name].data_ptr() not in loaded] + unexpected
    if wrong:
        raise InputError(
            f"{path}: holds the weights of another model ({wrong[0]} does not match): give a "
            "checkpoint of this run"
        )


def _without_tied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of each tensor: safetensors rejects shared memory, load_state ties again."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            unique[name] = tensor
    return unique


def _buffers(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of a module's buffers that are in its state dict."""
    return {name: to_host(buffer) for name, buffer in module.named_buffers() if name in state}


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    items = value.values() if isinstance(value, dict) else value
    return sum(map(_bytes, items)) if isinstance(value, dict | list) else 0
