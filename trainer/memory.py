"""Passes that do not fit in a device's memory: found before training, and cut where they are."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.errors import InputError
from data.utterance import Shape
from trainer.step import backward, hold_still


def rehearse(accelerator: Accelerator, model: nn.Module, optimizer: object, worst: Shape) -> bool:
    """Make the worst pass first, and an update that moves nothing; return whether it fitted.

    The optimizer takes the memory of its moments here too: what is to fail later fails at once.

    Args:
        accelerator: knows the device, autocast and loss scaling.
        model: a prepared TrainingModule.
        optimizer: the prepared optimizer.
        worst: the pass that takes the most memory.
    """
    n_mels = accelerator.unwrap_model(model).whisper.config.num_mel_bins
    device = accelerator.device
    try:
        features = torch.zeros(worst.rows, n_mels, worst.frames, device=device)
        ids: Tensor = torch.zeros(worst.rows, worst.tokens, dtype=torch.long, device=device)
        loss = model(features, ids, ids).sum() * torch.nan  # no weight moves
        backward(accelerator, model, loss, last=True)
        hold_still(accelerator, model, optimizer)
    except torch.OutOfMemoryError:
        return False
    return True


def seconds_after(worst: Shape, processes: int) -> float:
    """Return how many seconds a pass may hold, after one that did not fit.

    Raises:
        InputError: it cannot be cut. Or other processes wait for this one with half a gradient,
            which nothing can mend.
    """
    told = f"out of memory in a pass of {worst.rows} rows and {worst.seconds:.0f} s of padded audio"
    if worst.rows == 1:
        raise InputError(
            f"{told}, which cannot be cut: set model.gradient_checkpointing=true, lower "
            "data.max_seconds, or take a smaller model"
        )
    if processes > 1:
        raise InputError(
            f"{told}: set data.pass_seconds={worst.seconds / 2:.0f} or less (python -m trainer fit "
            "finds the most that fits), and go on with --resume=auto"
        )
    return worst.seconds / 2
