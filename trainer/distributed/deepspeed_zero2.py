"""ZeRO-2 by DeepSpeed (extra deepspeed): gradients and moments are cut up over processes.

Weights stay whole on every process, in float32 and under autocast, as without it. DeepSpeed's
engine makes the update: it clips the gradient, and moves nothing where that is not finite.
https://arxiv.org/abs/1910.02054
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, distributed

from data.errors import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
BUCKET = 50_000_000  # gradients that are added up at once: 0.2 GB; DeepSpeed's default takes 2


def is_zero(accelerator: Accelerator) -> bool:
    """Tell whether DeepSpeed makes the update."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def configure(accelerator: Accelerator, precision: str) -> None:
    """Have DeepSpeed compute as the loop does without it; to be called before prepare().

    Args:
        accelerator: DeepSpeed's; nothing is prepared yet.
        precision: of autocast: no, bf16 or fp16.

    Raises:
        InputError: one process, fp16, another stage than 2, or moments in host memory.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    config = accelerator.deepspeed_plugin.deepspeed_config
    cut = config["zero_optimization"]
    if accelerator.num_processes == 1:
        raise InputError(
            "DeepSpeed's ZeRO-2 cuts up over processes, and there is one: leave it out"
        )
    if cut["stage"] != 2:
        raise InputError(
            f"the launcher asks for DeepSpeed's stage {cut['stage']}, and this loop drives 2: set "
            "zero_stage: 2, or take FSDP with fsdp_version 2, which cuts up weights too "
            "(docs/multi-gpu.md)"
        )
    if (cut.get("offload_optimizer") or {}).get("device", "none") != "none":
        raise InputError("DeepSpeed's offload_optimizer_device is not driven here: set it to none")
    if precision == "fp16":
        raise InputError("precision=fp16 is not there under DeepSpeed: set precision=bf16 or fp32")
    cut.setdefault("reduce_bucket_size", BUCKET)
    config["train_micro_batch_size_per_gpu"] = 1  # only for what it reports
    config["gradient_accumulation_steps"] = 1  # it would divide the loss
    if precision == "bf16":  # without the empty list it would add up gradients in 16 bits
        told = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        config["torch_autocast"] = told


def autocast_of(accelerator: Accelerator) -> str:
    """Return autocast's precision in Accelerate's words, which does not know of DeepSpeed's."""
    if is_zero(accelerator) and "torch_autocast" in accelerator.deepspeed_plugin.deepspeed_config:
        return "bf16"
    return str(accelerator.mixed_precision)


def backward(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add a pass's gradient, over all processes."""
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss)


def move(engine: Any, max_norm: float) -> Tensor:
    """Make the update where the gradient is finite; return its norm before clipping, or inf."""
    engine.optimizer.clip_grad = max_norm
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm(), device=engine.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cut:
    """A group of weights, one behind the other in memory, and this process's part of it."""

    group: dict[str, Any]  # of the optimizer
    state: dict[str, Any]  # moments of the part; empty before the first update
    weights: list[Tensor]  # views into the whole
    part: Tensor

    def gather(self, moment: Tensor) -> list[Tensor]:
        """Return a moment of each weight, on the main process's CPU; every process must call."""
        whole = moment.new_empty(moment.numel() * distributed.get_world_size())
        distributed.all_gather(list(whole.chunk(distributed.get_world_size())), moment)
        if distributed.get_rank() != 0:
            return []
        whole = whole.cpu()
        return [whole[_place(weight)].view(weight.shape) for weight in self.weights]

    def mine(self, moments: list[Tensor]) -> Tensor:
        """Return this process's part of a moment."""
        size = self.part.numel()
        whole = self.part.new_zeros(size * distributed.get_world_size())
        for weight, moment in zip(self.weights, moments, strict=True):
            whole[_place(weight)] = moment.to(whole).flatten()
        first = size * distributed.get_rank()
        return whole[first : first + size].clone()


def gathered(engine: Any) -> dict[str, Any]:
    """Return the optimizer's state on the main process, numbered as torch's own do.

    Every process must call; the others get groups without moments.
    """
    groups: list[dict[str, Any]] = []
    state: dict[int, dict[str, Tensor]] = {}
    first = 0
    for cut in _cuts(engine):
        numbers = range(first, first + len(cut.weights))
        first = numbers.stop
        groups.append(cut.group | {"params": list(numbers)})
        if cut.state:
            moments = {key: cut.gather(cut.state[key]) for key in MOMENTS}
            for number, *each in zip(numbers, *moments.values(), strict=False):
                state[number] = {"step": cut.state["step"], **dict(zip(MOMENTS, each, strict=True))}
    return {"state": state, "param_groups": groups}


def scatter(engine: Any, saved: dict[str, Any]) -> None:
    """Take over what gathered() returned, and the weights that the module was given."""
    engine.optimizer.refresh_fp32_params()
    for cut, group in zip(_cuts(engine), saved["param_groups"], strict=True):
        states = [saved["state"][n] for n in group["params"] if n in saved["state"]]
        if states:
            step = states[0]["step"].to(cut.part.device)
            moments = {key: cut.mine([each[key] for each in states]) for key in MOMENTS}
            cut.state.update(step=step, **moments)


def _cuts(engine: Any) -> Iterator[_Cut]:
    zero = engine.optimizer
    for n, group in enumerate(zero.optimizer.param_groups):
        (part,) = group["params"]
        knobs = {key: value for key, value in group.items() if key != "params"}
        weights = list(zero.bit16_groups[n])
        yield _Cut(group=knobs, state=zero.optimizer.state[part], weights=weights, part=part)


def _place(weight: Tensor) -> slice:
    """Return where a weight lies in the whole of its group."""
    first = weight.storage_offset()
    return slice(first, first + weight.numel())
