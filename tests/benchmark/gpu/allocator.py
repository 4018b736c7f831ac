"""What the allocator's segments cost and save, in updates of ever new sizes.

    python tests/benchmark/gpu/allocator.py --segments=expandable

PyTorch's allocator takes memory from the driver in segments. Those of fixed size leave holes when
passes differ in size; expandable ones grow instead. Run it once with each, and compare.
"""

import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper, wait
from gpu.rows import record, smoke

from data.config_parser import parse_dataclass
from data.errors import plain_errors
from eval.device import ALLOCATOR
from trainer.distributed.build_engine import build_engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.step import train_step

UPDATES, SIZE, AUDIO_SECONDS = (3, "nano", 4.0) if smoke() else (60, "small", 240.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Train with one kind of segments."""

    segments: Literal["expandable", "fixed"] = "expandable"


def main() -> None:
    """Make the updates, and record the memory that was reserved and the time that they took."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        os.environ[ALLOCATOR[0]] = f"expandable_segments:{command.segments == 'expandable'}"
        device = torch.device("cpu" if smoke() else "cuda")
        accelerator = fresh_accelerator(device, "bf16" if device.type == "cuda" else "no")
        whisper = random_whisper(SIZE, device)
        module, config = prepare_training(whisper, ModelConfig()).train(), ModelConfig()
        engine = build_engine(accelerator, module, config, OptimConfig(), print)
        rng, took = random.Random(0), 0.0
        for _ in range(UPDATES):
            seconds = rng.uniform(1.0, 4.0 if smoke() else 28.0)
            batch = noise_batch(whisper, device, max(1, int(AUDIO_SECONDS / seconds)), seconds)
            tokens = sum(batch.tokens)
            wait(device)
            started = time.perf_counter()
            train_step(engine, [batch], tokens=tokens, max_norm=1.0)
            wait(device)
            took += time.perf_counter() - started
        figures = {"updates": UPDATES, "ms": round(1e3 * took / UPDATES, 1)}
        if device.type == "cuda":
            figures["allocated_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            figures["reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
        record(f"{command.segments} segments", **figures)


if __name__ == "__main__":
    main()
