"""FSDP2: gather and scatter sharded states, and FullModel, the unsharded model for evaluations.

In an evaluation processes decode different numbers of clips, so a sharded model, which gathers each
layer on all processes, cannot be used. An unsharded copy is filled from the shards when needed.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from eval.whisper import Whisper
from trainer.model import TrainingModule

FULL = StateDictOptions(full_state_dict=True)
FULL_ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)  # empty on other processes
# a checkpoint holds one name of tied weights
FULL_UNTIED = StateDictOptions(full_state_dict=True, strict=False)


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether weights are sharded over processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def set_reduce_dtype(accelerator: Accelerator, dtype: torch.dtype) -> None:
    """Set the type in which FSDP2 adds up gradients, over processes and over passes.

    Accelerate would take the type of the computation.
    """
    plugin = accelerator.state.fsdp_plugin
    policy = plugin.mixed_precision_policy or MixedPrecisionPolicy()
    plugin.mixed_precision_policy = replace(policy, reduce_dtype=dtype)


def separate_full_model(module: TrainingModule, accelerator: Accelerator) -> TrainingModule:
    """With FSDP, replace the module's model by a copy, which prepare() will shard.

    The original model stays unsharded. It is moved to the device, which prepare() does for the
    module only.
    """
    if is_sharded(accelerator):
        full = module.whisper
        module.whisper = deepcopy(full)
        full.to(accelerator.device)
    return module


class FullModel:
    """The unsharded model for evaluations and exports; without FSDP the trained model itself."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, whisper: Whisper) -> None:
        """Store the prepared TrainingModule, and the unsharded model."""
        self._accelerator = accelerator
        self._model = model
        self._whisper = whisper

    def refresh(self) -> None:
        """Copy the current weights to the unsharded model. All processes must call this."""
        if is_sharded(self._accelerator):
            state = get_model_state_dict(self._model, options=FULL)
            weights = {k.removeprefix("whisper."): v for k, v in state.items() if k != "silence"}
            self._whisper.model.load_state_dict(weights)

    def update_silence_states(self) -> None:
        """Compute the encoder's silence states again, with the current weights."""
        module: TrainingModule = self._accelerator.unwrap_model(self._model)
        if module.silence is not None:
            self.refresh()
        module.update_silence_states(self._whisper.model)


def gather_state(model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return unsharded weights and optimizer state on the main process.

    All processes must call this. Parameters are numbered as in torch's own optimizers, so that any
    number of processes, with or without FSDP, can load the state.
    """
    named_once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    full = get_model_state_dict(model, options=FULL_ON_MAIN)
    weights: dict[str, Any] = {name: w for name, w in full.items() if name in named_once}
    named: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=FULL_ON_MAIN)
    if not named:  # not the main process
        return weights, {}
    number = {name: n for n, name in enumerate(_names(model, optimizer))}
    groups = [
        group | {"params": [number[name] for name in group["params"]]}
        for group in named["param_groups"]
    ]
    state = {number[name]: moments for name, moments in named["state"].items()}
    return weights, {"state": state, "param_groups": groups}


def scatter_state(
    model: nn.Module, optimizer: Any, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """Load what gather_state() returned; each process keeps its shards.

    Args:
        model: the prepared model.
        optimizer: the torch optimizer.
        weights: unsharded, the same on all processes.
        state: of the optimizer, unsharded, the same on all processes.
    """
    names = _names(model, optimizer)
    set_model_state_dict(model, weights, options=FULL_UNTIED)
    groups = [
        group | {"params": [names[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    moments: Any = {names[number]: tensors for number, tensors in state["state"].items()}
    named = {"state": moments, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, named, options=FULL)


def _names(model: nn.Module, optimizer: Any) -> list[str]:
    """Return the names of the trained weights, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
