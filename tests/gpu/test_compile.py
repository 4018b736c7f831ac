"""Compiled layers compute what they do without the compiler."""

import time

import pytest
import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper
from gpu.rows import record, smoke
from torch import Tensor

from trainer.distributed.build_engine import build_engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.step import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

LONGEST = 60.0  # seconds to compile


def gradient(device: torch.device, *, compiled: bool) -> tuple[float, Tensor]:
    """Return the seconds of preparation, and the gradient of an update in bf16."""
    accelerator, config = fresh_accelerator(device, "bf16"), ModelConfig(compile=compiled)
    whisper = random_whisper("nano" if smoke() else "tiny", device)
    module, printed, began = prepare_training(whisper, config).train(), list[str](), time.time()
    engine = build_engine(accelerator, module, config, OptimConfig(), printed.append)
    took = time.time() - began
    assert not printed
    passes = [noise_batch(whisper, device, rows, seconds) for rows, seconds in ((3, 1.92), (2, 3))]
    passes[0].is_last = False
    train_step(engine, passes, tokens=sum(sum(b.tokens) for b in passes), max_norm=1e9)
    assert module.half_forward is not None
    return took, module.half_forward.weights.gradient


def test_compiled_layers_give_the_gradient_of_eager_ones(device: torch.device) -> None:
    _, eager = gradient(device, compiled=False)
    seconds, compiled = gradient(device, compiled=True)
    error = float((compiled - eager).norm() / eager.norm())
    record("bf16", seconds=round(seconds, 1), error=error)
    assert error < 0.05
    assert seconds < LONGEST or smoke()
