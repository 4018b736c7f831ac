"""AdamW's parameter groups, and the learning rate as a pure function of the update."""

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
    # Peak learning rate. A tenth of that of Whisper's pretraining, or less, is usual.
    lr: float = 1e-5
    warmup: int = 50  # Updates in which the learning rate rises from 0 to its peak.
    # How the learning rate changes after the warm-up.
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = 0.0  # AdamW's weight decay, of matrices only and not of biases and norms.
    beta1: float = 0.9  # AdamW's decay rate of the mean of the gradient.
    beta2: float = 0.999  # AdamW's decay rate of the mean of the squared gradient.
    eps: float = 1e-8  # AdamW's term that is added to the denominator.
    max_norm: float = 1.0  # Norm that the gradient is clipped to.

    def __post_init__(self) -> None:
        """Refuse values that could not work.

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
    """Make AdamW over what is trained, with weight decay on matrices only.

    Raises:
        InputError: it is the one of 8 bits, and bitsandbytes is not installed.
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


def moments_of(model: nn.Module, config: OptimConfig) -> int:
    """Return the bytes of the two moments of each weight that is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.name == "adamw8bit":
        return sum(map(moment_bytes, trained))
    return 2 * sum(p.nbytes for p in trained)


def lr_at(update: int, updates: int, config: OptimConfig) -> float:
    """Return the learning rate of an update, counted from 1: every one of them moves weights.

    The peak is at the last update of the warm-up, and at the first one where there is none. Linear
    and cosine would reach 0 one update after the last. PyTorch's and transformers' schedulers give
    the k-th update the rate of k - 1 steps: without warm-up theirs are these, and with one their
    first update moves nothing and the peak comes an update later.

    Args:
        update: which one.
        updates: how many there will be; only the linear and the cosine schedule ask.
        config: peak, warm-up and schedule.
    """
    if update < config.warmup:
        return config.lr * update / config.warmup
    peak = max(1, config.warmup)
    share = min(1.0, (update - peak) / max(1, updates + 1 - peak))
    if config.schedule == "linear":
        return config.lr * (1 - share)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * share)) / 2
    return config.lr


SMALLEST = 4096  # values of a tensor whose moments take a byte; those of smaller ones take four
BLOCK = 256  # values that share a scale


def adamw8bit(groups: list[dict[str, Any]], **knobs: Any) -> Any:
    """Return the optimizer.

    Args:
        groups: parameters, as torch's optimizers take them.
        knobs: lr, betas and eps.

    Raises:
        InputError: bitsandbytes is not installed, or does not work on this machine.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses what only 4 bits need
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"optim.name=adamw8bit needs bitsandbytes ({reason}): "
            'pip install "whisper-loop[8bit]", or set optim.name=adamw'
        ) from error

    class Guarded(AdamW8bit):
        """Does nothing where a gradient was not finite, as torch's fused AdamW."""

        found_inf: Tensor | None = None

        def step(self, closure: Any = None) -> Any:
            """Move the weights, unless told that a gradient is not finite."""
            self._held = self.found_inf is not None and bool(self.found_inf)
            return super().step(closure)

        def update_step(self, *which: Any) -> None:
            """Move one weight; the memory of its moments is taken by now."""
            if not self._held:
                super().update_step(*which)

    return Guarded(groups, min_8bit_size=SMALLEST, **knobs)


def moment_bytes(weight: Tensor) -> int:
    """Return what a weight's two moments take."""
    if weight.numel() < SMALLEST:
        return 8 * weight.numel()
    return 2 * (weight.numel() + 4 * -(-weight.numel() // BLOCK))
