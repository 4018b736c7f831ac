"""Out-of-memory errors: try the largest forward pass before training, and compute a lower limit."""

import torch
from torch import Tensor

from data.batch import Shape
from data.errors import InputError
from eval.device import out_of_memory
from trainer.distributed.engine import Engine

SMALLEST_PASS = Shape(1, 16, 2)  # of an update that allocates the optimizer's moments


def try_largest_pass(engine: Engine, largest: Shape) -> str | None:
    """Make the largest forward and backward pass before training, without changing weights.

    Memory then holds the same as in the middle of an update: the optimizer's moments, which an
    update with a small pass allocates, and the gradients of an earlier pass.

    Args:
        engine: the model, the optimizer and the device.
        largest: shape of the pass that takes the most memory.

    Returns:
        The library's message if the pass did not fit in memory, otherwise None.
    """
    try:
        for update in ([SMALLEST_PASS], [largest, largest]):
            engine.begin_update()
            for number, shape in enumerate(update, 1):
                _make_pass(engine, shape, last=number == len(update))
            engine.average_gradient()
            engine.clip_gradient(1.0)
            engine.skip_update()
        return None
    except RuntimeError as error:
        reason = out_of_memory(error)
    # after the except block, whose traceback holds what was allocated
    engine.discard_gradients()
    return reason


def _make_pass(engine: Engine, shape: Shape, *, last: bool) -> None:
    """Make a pass of zeros in which every token is a target, with a NaN gradient."""
    n_mels, device = engine.module.whisper.config.num_mel_bins, engine.accelerator.device
    features = torch.zeros(shape.rows, n_mels, shape.frames, device=device)
    ids: Tensor = torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device=device)
    with engine.gradient_sync(last=last):
        engine.backward(engine.model(features, ids, ids).sum() * torch.nan)  # no weight moves


def reduced_limit(shape: Shape, processes: int, reason: str) -> float:
    """Return a lower limit for the padded audio of a pass, in seconds.

    Args:
        shape: of the pass that did not fit in memory.
        processes: number of processes.
        reason: the library's message.

    Raises:
        InputError: the pass has a single row, or there are several processes: the others are then
            in the middle of an update, which cannot be repeated.
    """
    size = f"{shape.rows} rows and {shape.seconds:.0f} s of padded audio"
    message = f"out of memory in a forward pass of {size} ({reason})"
    if shape.rows == 1:
        raise InputError(
            f"{message}, which cannot be split: set model.gradient_checkpointing=true, lower "
            "data.max_seconds, or use a smaller model"
        )
    if processes > 1:
        raise InputError(
            f"{message}: set data.max_seconds_per_forward={shape.seconds / 2:.0f} or less "
            "(python -m trainer find-batch-size finds the largest that fits), and resume with "
            "--resume=auto"
        )
    return shape.seconds / 2
