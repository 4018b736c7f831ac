"""TrainMetrics: loss, speed, padding and memory between two log lines; and the logging config."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from data.batch import Batch
from data.errors import InputError
from data.log_mel import FRAMES_PER_POSITION
from trainer.metrics.flops import POSITIONS_PER_SECOND, Peak, WhisperFlops
from trainer.step import StepResult


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is logged, and how often."""

    log_every: int = 25  # Updates between two log lines.
    # Accelerate's trackers: tensorboard, wandb, mlflow and others.
    trackers: tuple[str, ...] = ("tensorboard",)
    # Project that trackers file the run under. tensorboard uses the run's folder instead.
    project: str = "whisper-loop"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        if self.log_every < 1:
            raise InputError(f"log.log_every must be at least 1, got {self.log_every}")


class TrainMetrics:
    """Accumulates sums over the updates between two log lines, and returns rates and means."""

    _loss: Tensor  # summed over this process's target tokens; stays on the device until read()
    _loss_tokens: Tensor  # number of target tokens in that sum
    _grad_norm: Tensor  # of the last update

    def __init__(self, accelerator: Accelerator, flops: WhisperFlops, peak: Peak) -> None:
        """Start with empty sums.

        Args:
            accelerator: sums over processes.
            flops: of the model.
            peak: of the device.
        """
        self._accelerator = accelerator
        self._flops = flops
        self.peak = peak
        self.reset()

    def add(self, batches: Sequence[Batch], result: StepResult) -> None:
        """Add an update of this process."""
        self._updates += 1
        # a non-finite update counts neither in the loss nor in its tokens
        tokens = float(sum(sum(b.tokens) for b in batches))
        self._loss += torch.where(result.finite, result.loss, 0.0)
        self._loss_tokens += torch.where(result.finite, tokens, 0.0)
        self._grad_norm = result.grad_norm
        for batch in batches:
            clips = [(s, u) for s, u in zip(batch.seconds, batch.tokens, strict=True) if u]
            self._clips += len(clips)
            self._seconds += sum(batch.seconds)
            self._tokens += sum(batch.tokens)
            self._model_flops += self._flops.train(clips)
            shape = batch.shape
            self._hardware_flops += self._flops.batch(shape)
            self._positions += shape.rows * shape.frames / FRAMES_PER_POSITION
            self._padded_tokens += shape.rows * shape.tokens

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time that training waits for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body: evaluation and saving are not training."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Return the metrics of all processes since the last call, and reset the sums."""
        sums = [
            self._clips,
            self._seconds,
            self._tokens,
            self._model_flops,
            self._hardware_flops,
            self._positions,
            self._padded_tokens,
            float(self._loss),
            float(self._loss_tokens),
        ]
        total = torch.tensor(sums, dtype=torch.float64)
        total = self._accelerator.reduce(total.to(self._accelerator.device), reduction="sum").cpu()
        clips, seconds, tokens, model, hardware, positions, padded, loss, scored = total.tolist()
        wall = time.perf_counter() - self._started
        metrics = {
            "train/loss": loss / max(1.0, scored),
            "train/grad_norm": float(self._grad_norm),
            "speed/updates_per_second": self._updates / wall,
            "speed/clips_per_second": clips / wall,
            "speed/audio_seconds_per_second": seconds / wall,
            "speed/tokens_per_second": tokens / wall,
            "speed/flops_per_second": self._hardware_flops / wall,  # of the main process
            "speed/data_wait": self._waited / wall,
            "speed/encoder_padding": 1 - seconds * POSITIONS_PER_SECOND / max(1.0, positions),
            "speed/decoder_padding": 1 - tokens / max(1.0, padded),
            "memory/peak_gb": peak_memory(self._accelerator.device) / 1e9,
        }
        device_seconds = wall * self._accelerator.num_processes
        metrics["speed/useful_flops_per_second"] = model / device_seconds
        if shares := self.peak.utilization(model / device_seconds, hardware / device_seconds):
            metrics["speed/mfu"], metrics["speed/hfu"] = shares
        self.reset()
        return metrics

    def reset(self) -> None:
        """Set all sums to 0, and restart the clock."""
        self._updates = self._clips = self._tokens = self._padded_tokens = 0
        self._seconds = self._positions = self._waited = 0.0
        self._model_flops = self._hardware_flops = 0.0
        self._loss = torch.zeros((), device=self._accelerator.device)
        self._loss_tokens = torch.zeros((), device=self._accelerator.device)
        self._grad_norm = torch.zeros(())
        self._started = time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the GPU's allocator, or on a CPU of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
