"""Estimate the peak memory of forward passes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from data.batch import Shape
from data.log_mel import FRAMES_PER_SECOND
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.train_metrics import peak_memory
from trainer.model import TrainingModule
from trainer.out_of_memory import SMALLEST_PASS
from trainer.plan.forward_pass_budget import FittingBatch
from trainer.plan.live_memory import LiveMemory
from trainer.plan.workload import Update, group_by_length

LENGTHS = 6  # rows of the table
ROWS = 2, 3  # of the passes that are measured; a single row needs fewer copies
HEAP_FACTOR = 2.0  # of a CPU's fragmented heap after 50 updates; 1.2 to 2.0 were measured


class MemoryEstimator:
    """Estimates the peak memory of a pass from the tensors that two small passes allocate.

    What kernels allocate for themselves is not counted, and neither is fragmentation.
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
        if self._half is None:  # otherwise the gradient is allocated
            self.base += sum(p.nbytes for p in model.parameters() if p.requires_grad)
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
        """Return the peak of the bytes that a pass allocates.

        After each operation they are a multiple of the rows, and a constant, such as the gradient
        of a matrix. Two small passes thus give those of a large one.
        """
        two, three = (self._live_bytes(shape._replace(rows=rows)) for rows in ROWS)
        if len(two) != len(three):  # PyTorch chose other operations
            two, three = [max(two)], [max(three)]
        return max(a + (shape.rows - 2) * (b - a) for a, b in zip(two, three, strict=True))

    def _live_bytes(self, shape: Shape) -> list[int]:
        """Make a pass, and return the bytes that it has allocated after each operation."""
        if self._half is None:
            self._make_pass(SMALLEST_PASS)  # allocates the gradients, which are counted in the base
        module: TrainingModule = self._accelerator.unwrap_model(self._model)
        graphs, module.graphs = module.graphs, None  # replays allocate nothing
        try:
            with LiveMemory() as memory, torch.compiler.set_stance("force_eager"):
                self._make_pass(shape)
        finally:
            module.graphs = graphs
        self._model.zero_grad()
        return memory.history

    def _make_pass(self, shape: Shape) -> None:
        """Make a forward and backward pass of zeros in which every token is a target."""
        device = self._accelerator.device
        size = shape.rows, self._config.num_mel_bins, shape.frames
        ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.long, device=device)
        self._model(torch.zeros(size, device=device), ids, ids).sum().backward()


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
