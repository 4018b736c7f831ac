"""AdamW whose moments take a byte each, by bitsandbytes (the extra 8bit), on a GPU and on a CPU.

https://arxiv.org/abs/2110.02861
"""

import logging
from typing import Any

from torch import Tensor

from data.errors import InputError

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
