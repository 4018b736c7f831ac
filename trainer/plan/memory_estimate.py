"""What a run takes: memory for its passes, and room on the disk."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.batch import Shape
from data.log_mel import FRAMES_PER_POSITION, FRAMES_PER_SECOND
from trainer.checkpoint.rotation import CheckpointConfig
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.meter import peak_memory
from trainer.plan.forward_limit import FittingBatch
from trainer.plan.workload import Update, by_length

LENGTHS = 6  # lines of the table
LOGITS = 3  # of them at a time in the backward pass: the log-softmax, and two gradients
HEAP = 2.0  # times what passes need: a CPU's heap is full of holes after 50 updates (1.2 to 2.0)


class Memory:
    """Estimates the peak of a pass, from what the model keeps of two small ones for its backward.

    On a CPU (whisper-tiny.en and whisper-base, 1 to 32 rows of 3 to 30 s) a pass on its own takes
    0.95 to 1.15 times as much; with gradient checkpointing up to 1.4 times.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        fit: Path,
        *,
        moments: int,
        flops: WhisperFlops,
    ) -> None:
        """Begin before the first update.

        Args:
            accelerator: knows the device and autocast.
            model: a prepared TrainingModule.
            fit: where find-batch-size keeps its figures, if it made some.
            moments: bytes that the optimizer will keep.
            flops: the model's shapes, and what is trained of it.
        """
        self._accelerator = accelerator
        self._model = model
        self._flops = flops
        self._config = accelerator.unwrap_model(model).whisper.config
        self.rest = peak_memory(accelerator.device)  # weights; on a CPU, libraries and all
        self.rest += moments + sum(p.nbytes for p in model.parameters() if p.requires_grad)
        head = accelerator.unwrap_model(model).whisper.proj_out.weight
        # the embedding's gradient comes twice, since the LM head has the same weights
        self.rest += head.nbytes if head.requires_grad else 0
        self._fitted = _fitted(fit)

    @property
    def source(self) -> str:
        """Return where the figures come from."""
        return "as find-batch-size measured" if self._fitted else "estimated from shapes"

    def lengths(self, updates: Sequence[Update]) -> list[dict[str, float]]:
        """Return the largest pass of each length, and the bytes at its peak."""
        told = []
        for shapes in by_length(updates, LENGTHS):
            largest = max(shapes, key=self._flops.activation_bytes)
            told.append(
                {
                    "from_seconds": min(s.frames for s in shapes) / FRAMES_PER_SECOND,
                    "to_seconds": max(s.frames for s in shapes) / FRAMES_PER_SECOND,
                    "passes": len(shapes),
                    **largest._asdict(),
                    "bytes": self.peak(largest),
                }
            )
        return told

    def peak(self, shape: Shape) -> float:
        """Return the bytes at the peak of a pass.

        Where find-batch-size measured one of like length, that is scaled to this one.
        """
        needed = self._needed(shape)
        if self._fitted:
            near = min(self._fitted, key=lambda each: abs(each.shape.frames - shape.frames))
            measured = near.gigabytes * 1e9 - self.rest
            needed *= max(0.0, measured) / self._needed(near.shape)
        return self.rest + needed * (HEAP if self._accelerator.device.type == "cpu" else 1.0)

    def _needed(self, shape: Shape) -> float:
        """Return the bytes that a pass takes while it is made."""
        one, two = (self._kept(shape._replace(rows=rows)) for rows in (1, 2))
        each = two - one  # what is left are weights in half precision
        logits = shape.rows * shape.tokens * self._config.vocab_size * 4
        return one + (shape.rows - 1) * each + LOGITS * logits

    def _kept(self, shape: Shape) -> int:
        """Return the bytes that a pass keeps for its backward."""
        device, config = self._accelerator.device, self._config
        features = torch.zeros(shape.rows, config.num_mel_bins, shape.frames, device=device)
        ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device=device)
        kept = self._count(lambda: self._model(features, ids, ids))
        if self._flops.recomputes:  # the backward makes one layer's states anew at a time
            layer = self._accelerator.unwrap_model(self._model).whisper.model.encoder.layers[0]
            positions = shape.frames // FRAMES_PER_POSITION
            states = torch.zeros(shape.rows, positions, config.d_model, device=device)
            states.requires_grad_()
            layer.eval()  # when not training it keeps all
            with self._accelerator.autocast():
                kept += self._count(lambda: layer(states, None))
            layer.train()
        return kept

    def _count(self, forward: Callable[[], Any]) -> int:
        """Return the bytes of what a forward keeps, weights left out."""
        own = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        kept: dict[int, Any] = {}  # storages, held so that none takes another's address

        def keep(tensor: Tensor) -> None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda _: torch.empty(0)):
            forward()
        return sum(storage.nbytes() for storage in kept.values())


def _fitted(path: Path) -> list[FittingBatch]:
    """Return what find-batch-size measured on this device with this model, if it did."""
    if not path.exists():
        return []
    tried = json.loads(path.read_text(encoding="utf-8"))["tried"]
    return [FittingBatch(**{**each, "shape": Shape(*each["shape"])}) for each in tried]


def all_memory(device: torch.device) -> float:
    """Return the bytes that a device has, used or free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskSpace:
    """What a run will write, and what there is room for; in bytes. Curves and texts are nothing."""

    checkpoint: int
    model: int
    kept: int  # checkpoints at the end, at most
    # the next are written before the old ones go, where there is twice a checkpoint's size
    needed: int
    free: int


def room(
    model: nn.Module, optimizer: Any, config: CheckpointConfig, folder: Path, saves: Collection[int]
) -> DiskSpace:
    """Return what a run needs on its folder's disk.

    Args:
        model: the TrainingModule.
        optimizer: its optimizer, after an update: its state is counted as it is.
        config: what is kept.
        folder: the run's, which need not exist.
        saves: the updates that may be saved.
    """
    weights = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    kept_by = (value for state in optimizer.state.values() for value in state.values())
    moments = sum(value.nbytes for value in kept_by if isinstance(value, Tensor))
    for_good = [s for s in saves if config.keep_every is not None and s % config.keep_every == 0]
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    checkpoint = weights + buffers + moments
    # each keeps the best one before it as well
    kept = min(len(saves), 2 * (config.keep + len(for_good)))
    return DiskSpace(
        checkpoint=checkpoint,
        model=weights,
        kept=kept,
        needed=(kept + 2) * checkpoint + 2 * weights,
        free=shutil.disk_usage(there).free,
    )
