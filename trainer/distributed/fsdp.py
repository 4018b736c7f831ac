"""What is cut up over processes, and the whole model beside weights that are (FSDP2).

An evaluation asks the stock model for texts, as many as each process has clips: it cannot wait for
the others at each layer. So it has a model of its own, filled in from the parts when it is due.
"""

from copy import deepcopy
from typing import Any

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

from data.errors import InputError
from eval.whisper import Whisper
from trainer.distributed.deepspeed_zero2 import is_zero
from trainer.model import TrainingModule
from trainer.optimizer import OptimConfig, build_optimizer

WHOLE = StateDictOptions(full_state_dict=True)
ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)  # others get nothing
# the file holds one name of tied weights
PARTLY = StateDictOptions(full_state_dict=True, strict=False)


def is_sharded(accelerator: Accelerator) -> bool:
    """Tell whether no process holds all weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def gathers(accelerator: Accelerator) -> bool:
    """Tell whether every process holds a part of what a checkpoint is made of."""
    return is_sharded(accelerator) or is_zero(accelerator)


def refuse_others(accelerator: Accelerator) -> None:
    """Stop where something else than this loop would own the update, or its parts.

    Raises:
        InputError: Megatron or FSDP's first version was asked for.
    """
    kind = accelerator.distributed_type
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    second = is_sharded(accelerator) and accelerator.is_fsdp2
    if kind in known or second or is_zero(accelerator):
        return
    raise InputError(
        f"the launcher asks for {kind.value}{', version 1' if is_sharded(accelerator) else ''}, "
        "which this loop does not drive: take --multi_gpu, FSDP with fsdp_version 2 or "
        "DeepSpeed with zero_stage 2 (docs/multi-gpu.md)"
    )


def prepare(
    accelerator: Accelerator, module: TrainingModule, config: OptimConfig
) -> tuple[nn.Module, Any]:
    """Build the optimizer, and cut up over processes what the launcher wants cut up.

    Raises:
        InputError: the optimizer's moments cannot be cut up.
    """
    if is_zero(accelerator) and config.name != "adamw":
        raise InputError(f"optim.name={config.name} is not there under DeepSpeed: set adamw")
    module = apart(module, accelerator)
    model, optimizer = accelerator.prepare(module, build_optimizer(module, config))
    return model, optimizer


def apart(module: TrainingModule, accelerator: Accelerator) -> TrainingModule:
    """Give the module a model of its own where its weights are going to be cut up.

    The one that it had stays whole, and goes to the device: prepare() takes only the module there.
    """
    if is_sharded(accelerator):
        whole = module.whisper
        module.whisper = deepcopy(whole)
        whole.to(accelerator.device)
    return module


class FullModel:
    """The whole model beside the one that is trained; the same one where that is whole."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, whisper: Whisper) -> None:
        """Take the prepared TrainingModule, and the model that is scored and exported."""
        self._accelerator = accelerator
        self._model = model
        self._whisper = whisper

    def refresh(self) -> None:
        """Fill in the whole model; every process must call."""
        if is_sharded(self._accelerator):
            state = get_model_state_dict(self._model, options=WHOLE)
            held = {k.removeprefix("whisper."): v for k, v in state.items() if k != "silence"}
            self._whisper.model.load_state_dict(held)

    def update_silence_states(self) -> None:
        """Listen to silence anew: training moves what the encoder makes of it."""
        module: TrainingModule = self._accelerator.unwrap_model(self._model)
        if module.silence is not None:
            self.refresh()
        module.update_silence_states(self._whisper.model)


def gathered(model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return whole weights and the optimizer's state on the main process; every one must call.

    The state is numbered as torch's own optimizers do: any number of processes reads it.
    """
    named_once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    whole = get_model_state_dict(model, options=ON_MAIN)
    weights: dict[str, Any] = {name: w for name, w in whole.items() if name in named_once}
    named: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=ON_MAIN)
    if not named:  # not the main process
        return weights, {}
    number = {name: n for n, name in enumerate(_names(model, optimizer))}
    groups = [
        group | {"params": [number[name] for name in group["params"]]}
        for group in named["param_groups"]
    ]
    state = {number[name]: moments for name, moments in named["state"].items()}
    return weights, {"state": state, "param_groups": groups}


def scatter(
    model: nn.Module, optimizer: Any, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """Give each process its part of what gathered() returned, read by all of them."""
    names = _names(model, optimizer)
    set_model_state_dict(model, weights, options=PARTLY)
    groups = [
        group | {"params": [names[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    moments: Any = {names[number]: each for number, each in state["state"].items()}
    named = {"state": moments, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, named, options=WHOLE)


def _names(model: nn.Module, optimizer: Any) -> list[str]:
    """Return the names of what is trained, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
