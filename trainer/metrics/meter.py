"""What a person wants to know while it trains: how fast, how well, how full."""

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
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        if self.log_every < 1:
            raise InputError(f"log.log_every must be at least 1, got {self.log_every}")


class TrainMetrics:
    """Sums up what happens between two log lines; rates are divided when a line is due."""

    _loss: Tensor  # summed over this process's target tokens; read when a line is due
    _scored: Tensor  # target tokens behind that sum
    _grad_norm: Tensor  # of the last update

    def __init__(self, accelerator: Accelerator, flops: WhisperFlops, peak: Peak) -> None:
        """Take the model's arithmetic and the device's peak."""
        self._accelerator = accelerator
        self._flops = flops
        self.peak = peak
        self.start()

    def add(self, batches: Sequence[Batch], result: StepResult) -> None:
        """Count an update of this process."""
        self._updates += 1
        # an update that was not made has no loss: its tokens are not divided by either
        self._loss += torch.where(result.finite, result.loss, 0.0)
        self._scored += torch.where(result.finite, float(sum(sum(b.tokens) for b in batches)), 0.0)
        self._grad_norm = result.grad_norm
        for batch in batches:
            clips = [(s, u) for s, u in zip(batch.seconds, batch.tokens, strict=True) if u]
            self._clips += len(clips)
            self._seconds += sum(batch.seconds)
            self._tokens += sum(batch.tokens)
            self._useful += self._flops.train(clips)
            shape = batch.shape
            self._made += self._flops.of_pass(shape)
            self._positions += shape.rows * shape.frames / FRAMES_PER_POSITION
            self._slots += shape.rows * shape.tokens

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time in which training waits for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave time out: evaluation and saving are not training."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Return the metrics since the last call, over all processes, and begin anew."""
        mine = [
            self._clips,
            self._seconds,
            self._tokens,
            self._useful,
            self._made,
            self._positions,
            self._slots,
        ]
        mine += [float(self._loss), float(self._scored)]
        total = torch.tensor(mine, dtype=torch.float64)
        total = self._accelerator.reduce(total.to(self._accelerator.device), reduction="sum").cpu()
        clips, seconds, tokens, useful, made, positions, slots, loss, scored = total.tolist()
        wall = time.perf_counter() - self._started
        metrics = {
            "train/loss": loss / max(1.0, scored),
            "train/grad_norm": float(self._grad_norm),
            "speed/updates_per_second": self._updates / wall,
            "speed/clips_per_second": clips / wall,
            "speed/audio_seconds_per_second": seconds / wall,
            "speed/tokens_per_second": tokens / wall,
            "speed/flops_per_second": self._made / wall,  # computed here, on the main process
            "speed/data_wait": self._waited / wall,
            "speed/encoder_padding": 1 - seconds * POSITIONS_PER_SECOND / max(1.0, positions),
            "speed/decoder_padding": 1 - tokens / max(1.0, slots),
            "memory/peak_gb": peak_memory(self._accelerator.device) / 1e9,
        }
        each = wall * self._accelerator.num_processes
        metrics["speed/useful_flops_per_second"] = useful / each  # of a process
        if shares := self.peak.shares(useful / each, made / each):
            metrics["speed/mfu"], metrics["speed/hfu"] = shares
        self.start()
        return metrics

    def start(self) -> None:
        """Begin anew, from now."""
        self._updates = self._clips = self._tokens = self._slots = 0
        self._seconds = self._useful = self._made = self._positions = self._waited = 0.0
        self._loss = torch.zeros((), device=self._accelerator.device)
        self._scored = torch.zeros((), device=self._accelerator.device)
        self._grad_norm = torch.zeros(())
        self._started = time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: of the GPU's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
