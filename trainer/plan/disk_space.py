"""The disk space of a run: checkpoints and exported models."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.checkpoint.rotation import CheckpointConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskSpace:
    """Disk space of a run in bytes; logs and texts are negligible."""

    checkpoint: int
    model: int
    kept: int  # largest number of checkpoints at the end
    needed: int  # with two more checkpoints: new ones are written before old ones are deleted
    free: int


def disk_space(
    model: nn.Module, optimizer: Any, config: CheckpointConfig, folder: Path, saves: Collection[int]
) -> DiskSpace:
    """Return the space that a run needs on its folder's disk.

    Args:
        model: the TrainingModule.
        optimizer: after an update, so that its state exists and can be counted.
        config: which checkpoints are kept.
        folder: of the run, which need not exist.
        saves: the updates at which checkpoints are saved.
    """
    weights = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    state = (value for values in optimizer.state.values() for value in values.values())
    moments = sum(value.nbytes for value in state if isinstance(value, Tensor))
    permanent = [s for s in saves if config.keep_every is not None and s % config.keep_every == 0]
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    checkpoint = weights + buffers + moments
    # each kept checkpoint also keeps the best one before it
    kept = min(len(saves), 2 * (config.keep + len(permanent)))
    return DiskSpace(
        checkpoint=checkpoint,
        model=weights,
        kept=kept,
        needed=(kept + 2) * checkpoint + 2 * weights,
        free=shutil.disk_usage(existing).free,
    )
