"""The host does not wait for the GPU inside of a pass: it would launch nothing meanwhile."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper
from gpu.rows import record

from trainer.distributed.build_engine import build_engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.step import forward_backward, train_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SYNC = "called a synchronizing CUDA operation"


@contextmanager
def counted(found: list[str]) -> Iterator[None]:
    """Note the place of every call that waits for the GPU."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{w.filename}:{w.lineno}" for w in told if SYNC in str(w.message)]


@pytest.mark.parametrize("rows", [4, 160])  # the embedding's backward is another above 3,072 tokens
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_pass_never_waits_for_the_gpu(precision: str, rows: int, gpu: torch.device) -> None:
    accelerator = fresh_accelerator(gpu, precision)
    whisper = random_whisper("tiny", gpu)
    module, config = prepare_training(whisper, ModelConfig()).train(), ModelConfig()
    engine = build_engine(accelerator, module, config, OptimConfig(), print)
    batch = noise_batch(whisper, gpu, rows, 1.92, words=20)

    def one_pass() -> None:
        forward_backward(engine, batch, 1 / sum(batch.tokens))

    def update() -> None:
        tokens = sum(batch.tokens)
        train_step(engine, [batch], tokens=tokens, max_norm=1.0)

    syncs: dict[str, list[str]] = {}
    work: dict[str, Callable[[], None]] = {"update": update, "pass": one_pass}
    for name, call in work.items():
        call()  # kernels are loaded and planned at the first visit, which may wait
        with counted(syncs.setdefault(name, [])):
            call()
        places = sorted({place.rpartition("/")[2] for place in syncs[name]})
        record(f"{name}, {precision}, {rows} clips", syncs=len(syncs[name]), places=places)
    assert not syncs["pass"], f"a pass should not wait for the GPU, found {syncs['pass']}"
