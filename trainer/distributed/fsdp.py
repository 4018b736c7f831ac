"""What FSDP2 shards over processes, and the whole model beside the sharded one.

An evaluation asks the stock model for texts, as many as each process has clips: it cannot wait for
the others at each layer. So it has a model of its own, filled in from the parts when it is due.
"""

from copy import deepcopy
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
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
from trainer.model import TrainingModule

WHOLE = StateDictOptions(full_state_dict=True)
ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)  # others get nothing
SUPPORTED = (
    "which this loop does not support: use --multi_gpu, or FSDP with fsdp_version 2 (as ZeRO-2: "
    "trainer/recipes/accelerate/fsdp2-zero2.yaml)"
)
# the file holds one name of tied weights
PARTLY = StateDictOptions(full_state_dict=True, strict=False)


def is_sharded(accelerator: Accelerator) -> bool:
    """Tell whether no process holds all weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def refuse_plugins() -> None:
    """Stop where the launcher asks for a plugin, without which Accelerate would raise ImportError.

    Raises:
        InputError: DeepSpeed or Megatron-LM was asked for.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise InputError(f"the launcher asks for {name}, {SUPPORTED}")


def refuse_others(accelerator: Accelerator) -> None:
    """Stop where something else than this loop would make the update, or shard the weights.

    Raises:
        InputError: FSDP's first version was asked for, or what Accelerate knows besides.
    """
    kind = accelerator.distributed_type
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if kind in known or (is_sharded(accelerator) and accelerator.is_fsdp2):
        return
    version = " version 1" if is_sharded(accelerator) else ""
    raise InputError(f"the launcher asks for {kind.value}{version}, {SUPPORTED}")


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
