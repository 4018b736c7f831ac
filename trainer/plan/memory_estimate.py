"""Estimate the peak memory of forward passes."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.batch import Shape
from data.log_mel import FRAMES_PER_POSITION, FRAMES_PER_SECOND
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.train_metrics import peak_memory
from trainer.model import TrainingModule
from trainer.plan.forward_pass_budget import FittingBatch
from trainer.plan.workload import Update, group_by_length

LENGTHS = 6  # rows of the table
LOGITS = 3  # copies in the backward pass: the log-softmax, and two gradients
HEAP_FACTOR = 2.0  # of a CPU's fragmented heap after 50 updates; 1.2 to 2.0 were measured


class MemoryEstimator:
    """Estimates the peak memory of a pass from the activations that two small passes save.

    On a CPU (whisper-tiny.en and whisper-base, 1 to 32 rows of 3 to 30 s) a single pass takes 0.95
    to 1.15 times the estimate; with gradient checkpointing up to 1.4 times.
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
        """Measure the memory in use; call this before the first update.

        Args:
            accelerator: gives device and autocast.
            model: a prepared TrainingModule.
            fit: file of find-batch-size for this device and model, which need not exist.
            moments: bytes of the optimizer's state.
            flops: the model's shapes and trained parameters.
        """
        self._accelerator = accelerator
        self._model = model
        self._flops = flops
        module: TrainingModule = accelerator.unwrap_model(model)
        self._config = module.whisper.config
        self._half = module.half_forward
        self.base = peak_memory(accelerator.device)  # weights; on a CPU the whole process
        self.base += moments
        if self._half is None:
            self.base += sum(p.nbytes for p in model.parameters() if p.requires_grad)
            head = module.whisper.proj_out.weight
            # the tied weights of embedding and LM head have two gradients
            self.base += head.nbytes if head.requires_grad else 0
        else:  # the float32 gradient is allocated; a backward pass adds one in half precision
            self.base += self._half.weights.gradient.nbytes // 2
        self._measured = _read_measurements(fit)

    @property
    def source(self) -> str:
        """Source of the figures: measured by find-batch-size, or estimated."""
        return "as find-batch-size measured" if self._measured else "estimated from shapes"

    def lengths(self, updates: Sequence[Update]) -> list[dict[str, float]]:
        """Return the largest pass of each range of lengths, and its peak memory in bytes."""
        rows = []
        for shapes in group_by_length(updates, LENGTHS):
            largest = max(shapes, key=self._flops.activation_bytes)
            rows.append(
                {
                    "from_seconds": min(s.frames for s in shapes) / FRAMES_PER_SECOND,
                    "to_seconds": max(s.frames for s in shapes) / FRAMES_PER_SECOND,
                    "passes": len(shapes),
                    **largest._asdict(),
                    "bytes": self.peak(largest),
                }
            )
        return rows

    def peak(self, shape: Shape) -> float:
        """Return the peak memory of a pass in bytes.

        If find-batch-size has measured passes, the measurement of the nearest length is scaled to
        the shape.
        """
        needed = self._activations(shape)
        if self._measured:
            nearest = min(self._measured, key=lambda batch: abs(batch.shape.frames - shape.frames))
            measured = nearest.gigabytes * 1e9 - self.base
            needed *= max(0.0, measured) / self._activations(nearest.shape)
        on_cpu = self._accelerator.device.type == "cpu"
        return self.base + needed * (HEAP_FACTOR if on_cpu else 1.0)

    def _activations(self, shape: Shape) -> float:
        """Return the bytes of a pass's activations and logits."""
        one, two = (self._saved_bytes(shape._replace(rows=rows)) for rows in (1, 2))
        per_row = two - one  # the remainder are weights cast to half precision
        logits = shape.rows * shape.tokens * self._config.vocab_size * 4
        return one + (shape.rows - 1) * per_row + LOGITS * logits

    def _saved_bytes(self, shape: Shape) -> int:
        """Run a forward pass, and return the bytes that it saves for backward."""
        device, config = self._accelerator.device, self._config
        features = torch.zeros(shape.rows, config.num_mel_bins, shape.frames, device=device)
        ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device=device)
        saved = self._count_saved(lambda: self._model(features, ids, ids))
        if self._flops.gradient_checkpointing:  # the backward pass recomputes a layer at a time
            positions = shape.frames // FRAMES_PER_POSITION
            states = torch.zeros(shape.rows, positions, config.d_model, device=device)
            states.requires_grad_()
            saved += self._count_saved(lambda: self._encoder_layer(states))
        return saved

    def _encoder_layer(self, states: Tensor) -> None:
        """Compute the first layer of the encoder without gradient checkpointing."""
        if self._half is not None:
            self._half.first_encoder_layer(states)
            return
        layer = self._accelerator.unwrap_model(self._model).whisper.model.encoder.layers[0]
        layer.eval()  # in eval mode it does not checkpoint
        with self._accelerator.autocast():
            layer(states, None)
        layer.train()

    def _count_saved(self, forward: Callable[[], Any]) -> int:
        """Return the bytes of the tensors that a forward saves, without parameters."""
        copies = [] if self._half is None else list(self._half.weights.values.values())
        parameters = {w.untyped_storage().data_ptr() for w in (*self._model.parameters(), *copies)}
        saved: dict[int, Any] = {}  # storages by address, kept alive so that addresses stay unique

        def save(tensor: Tensor) -> None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                saved[storage.data_ptr()] = storage

        module: TrainingModule = self._accelerator.unwrap_model(self._model)
        graphs, module.graphs = module.graphs, None  # a replay saves nothing
        eager = torch.compiler.set_stance("force_eager")
        with eager, torch.autograd.graph.saved_tensors_hooks(save, lambda _: torch.empty(0)):
            forward()
        module.graphs = graphs
        return sum(storage.nbytes() for storage in saved.values())


def _read_measurements(path: Path) -> list[FittingBatch]:
    """Return the batches that find-batch-size measured with this device and model, or []."""
    if not path.exists():
        return []
    tried = json.loads(path.read_text(encoding="utf-8"))["tried"]
    return [FittingBatch(**{**row, "shape": Shape(*row["shape"])}) for row in tried]


def total_memory(device: torch.device) -> float:
    """Return a device's total memory in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
