"""Passes that do not fit in a device's memory: found before training, and cut where they are."""

import torch
from torch import Tensor

from data.batch import Shape
from data.errors import InputError
from eval.device import out_of_memory
from trainer.distributed.engine import Engine

SHORTEST = Shape(1, 16, 2)  # of a pass that makes the moments


def rehearse(engine: Engine, worst: Shape) -> str | None:
    """Make the worst pass before training, and updates that move nothing.

    Memory holds then what it will hold in the middle of an update: the optimizer's moments, which
    a short pass makes, and the gradients of an earlier pass.

    Args:
        engine: the model, the optimizer and the device.
        worst: the pass that takes the most memory.

    Returns:
        why it did not fit in memory, as the library words it; None: it did.
    """
    try:
        for update in ([SHORTEST], [worst, worst]):
            for number, shape in enumerate(update, 1):
                _make_pass(engine, shape, last=number == len(update))
            engine.skip_update()
    except RuntimeError as error:
        return out_of_memory(error)
    return None


def _make_pass(engine: Engine, shape: Shape, *, last: bool) -> None:
    """Make a pass of zeros in which every token is a target, and a gradient that is not finite."""
    n_mels, device = engine.module.whisper.config.num_mel_bins, engine.accelerator.device
    features = torch.zeros(shape.rows, n_mels, shape.frames, device=device)
    ids: Tensor = torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device=device)
    with engine.gradient_sync(last=last):
        engine.backward(engine.model(features, ids, ids).sum() * torch.nan)  # no weight moves


def seconds_after(worst: Shape, processes: int, reason: str) -> float:
    """Return how many seconds a pass may hold, after one that did not fit for this reason.

    Raises:
        InputError: it cannot be cut. Or other processes wait for this one with half a gradient,
            which nothing can mend.
    """
    size = f"{worst.rows} rows and {worst.seconds:.0f} s of padded audio"
    message = f"out of memory in a pass of {size} ({reason})"
    if worst.rows == 1:
        raise InputError(
            f"{message}, which cannot be cut: set model.gradient_checkpointing=true, lower "
            "data.max_seconds, or take a smaller model"
        )
    if processes > 1:
        raise InputError(
            f"{message}: set data.max_seconds_per_forward={worst.seconds / 2:.0f} or less "
            "(python -m trainer find-batch-size finds the most that fits), and resume with "
            "--resume=auto"
        )
    return worst.seconds / 2
