"""The optimizer (AdamW or 8-bit AdamW), and the learning rate as a function of the update."""

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer and the learning rate."""

    # Optimizer. The moments of adamw8bit take a quarter of the memory (the extra 8bit).
    name: Literal["adamw", "adamw8bit"] = "adamw"
    # Peak learning rate. A tenth to a fortieth of that of Whisper's pretraining is usual.
    lr: float = 1e-5
    warmup: int = 50  # Updates in which the learning rate rises from 0 to its peak.
    # How the learning rate changes after the warm-up.
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = 0.0  # AdamW's weight decay, of matrices only and not of biases and norms.
    beta1: float = 0.9  # AdamW's decay rate of the mean of the gradient.
    beta2: float = 0.999  # AdamW's decay rate of the mean of the squared gradient.
    eps: float = 1e-8  # AdamW's term that is added to the denominator.
    max_norm: float = 1.0  # Norm that the gradient is clipped to.
    # Number format in which the gradient is added up over processes. bf16 halves the traffic.
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        if self.lr <= 0:
            raise InputError(f"optim.lr must be greater than 0, got {self.lr}")
        if self.warmup < 0:
            raise InputError(f"optim.warmup must be 0 or more, got {self.warmup}")
        if self.max_norm <= 0:
            raise InputError(f"optim.max_norm must be greater than 0, got {self.max_norm}")


def build_optimizer(model: nn.Module, config: OptimConfig) -> Any:
    """Build AdamW for the weights that are trained, with weight decay on matrices only.

    Raises:
        InputError: the optimizer is adamw8bit, and bitsandbytes is not installed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    if config.name == "adamw8bit":
        return adamw8bit(groups, lr=config.lr, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def optimizer_state_bytes(model: nn.Module, config: OptimConfig) -> int:
    """Return the bytes of the optimizer's two moments of all trained weights."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.name == "adamw8bit":
        return sum(map(_moment_bytes_8bit, trained))
    return 2 * sum(p.nbytes for p in trained)


def lr_at(update: int, updates: int, config: OptimConfig) -> float:
    """Return the learning rate of an update. It is never 0.

    The peak is at the last update of the warm-up, or at the first update without a warm-up. The
    linear and cosine schedules reach 0 one update after the last. PyTorch's and transformers'
    schedulers give update k the rate of k - 1 steps: without a warm-up the rates are the same, and
    with one their first update has a rate of 0 and their peak is one update later.

    Args:
        update: its number, counted from 1.
        updates: number of updates in total; used by the linear and the cosine schedule.
        config: peak, warm-up and schedule.
    """
    if update < config.warmup:
        return config.lr * update / config.warmup
    peak = max(1, config.warmup)
    progress = min(1.0, (update - peak) / max(1, updates + 1 - peak))
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    return config.lr


MIN_8BIT_SIZE = 4096  # values in a tensor; smaller ones have float32 moments
BLOCK = 256  # values that share a float32 scale


def adamw8bit(groups: list[dict[str, Any]], **knobs: Any) -> Any:
    """Build the 8-bit AdamW of bitsandbytes.

    Args:
        groups: parameters, as torch's optimizers take them.
        knobs: lr, betas and eps.

    Raises:
        InputError: bitsandbytes is not installed, or does not work on this machine.
    """
    # it warns of missing parts that only 4 bits need
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"optim.name=adamw8bit needs bitsandbytes ({reason}): "
            'pip install "whisper-loop[8bit]", or set optim.name=adamw'
        ) from error

    class SkippingAdamW8bit(AdamW8bit):
        """Skips a step whose gradient is not finite, as torch's fused AdamW does."""

        found_inf: Tensor | None = None

        def step(self, closure: Any = None) -> Any:
            """Update the weights, unless found_inf says that the gradient is not finite."""
            self._skip = self.found_inf is not None and bool(self.found_inf)
            return super().step(closure)

        def update_step(self, *args: Any) -> None:
            """Update one weight; its moments are allocated in any case."""
            if not self._skip:
                super().update_step(*args)

    return SkippingAdamW8bit(groups, min_8bit_size=MIN_8BIT_SIZE, **knobs)


def _moment_bytes_8bit(weight: Tensor) -> int:
    """Return the bytes of a weight's two moments in 8-bit AdamW."""
    if weight.numel() < MIN_8BIT_SIZE:
        return 8 * weight.numel()
    return 2 * (weight.numel() + 4 * -(-weight.numel() // BLOCK))
