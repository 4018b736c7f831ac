"""Estimates of memory and disk space agree with measurements."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from data.atomic_files import write_json
from data.batch import Shape
from eval.whisper import load_whisper
from trainer.checkpoint.rotation import CheckpointConfig
from trainer.commands.find_batch_size import PeakMemory
from trainer.distributed.build_engine import build_engine
from trainer.distributed.engine import Engine
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.train_metrics import peak_memory
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer, optimizer_state_bytes
from trainer.out_of_memory import try_largest_pass
from trainer.plan.disk_space import disk_space
from trainer.plan.live_memory import LiveMemory
from trainer.plan.memory_estimate import HEAP_FACTOR, MemoryEstimator, total_memory

NONE = Path("none.json")
LARGE = Shape(12, 1504, 60)


def prepared(model: Path, **knobs: Any) -> tuple[Accelerator, TrainingModule, Any]:
    """Return accelerator, model and optimizer."""
    accelerator = Accelerator(cpu=True)
    module = prepare_training(load_whisper(str(model)), ModelConfig(**knobs))
    trained, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    trained.train()
    return accelerator, trained, optimizer


def memory_of(
    accelerator: Accelerator,
    model: TrainingModule,
    fit: Path = NONE,
    *,
    moments: int = 0,
    gradient_checkpointing: bool = False,
) -> MemoryEstimator:
    """Return a MemoryEstimator."""
    config = accelerator.unwrap_model(model).whisper.config
    flops = WhisperFlops.from_config(config, gradient_checkpointing=gradient_checkpointing)
    return MemoryEstimator(accelerator, model, fit, moments=moments, flops=flops)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_estimated_and_measured_memory_of_a_pass_agree(
    wide_model: Path, gradient_checkpointing: bool
) -> None:
    accelerator, model, optimizer = prepared(
        wide_model, gradient_checkpointing=gradient_checkpointing
    )
    gauge = PeakMemory(accelerator.device)
    memory = memory_of(accelerator, model, gradient_checkpointing=gradient_checkpointing)
    try_largest_pass(Engine(accelerator, model, optimizer), Shape(1, 16, 1))
    gauge.reset()
    before = gauge.peak
    try_largest_pass(Engine(accelerator, model, optimizer), LARGE)
    taken = (memory.peak(LARGE) - memory.base) / HEAP_FACTOR
    assert taken > 100e6
    assert 0.6 * taken < gauge.peak - before < 2.5 * taken  # a heap has holes of its own


def engine_of(model: Path, precision: Any, **knobs: Any) -> tuple[Accelerator, TrainingModule]:
    """Return accelerator and model of a run in a precision, at the beginning of an update."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    module = prepare_training(load_whisper(str(model)), ModelConfig(**knobs))
    engine = build_engine(accelerator, module, ModelConfig(**knobs), OptimConfig(), print)
    engine.begin_update()
    return accelerator, engine.module


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Forget the precision of a test's accelerator."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make_pass(model: TrainingModule, shape: Shape) -> Tensor:
    """Make a forward pass of zeros, and return its loss."""
    features = torch.zeros(shape.rows, model.whisper.config.num_mel_bins, shape.frames)
    ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.long)
    loss: Tensor = model(features, ids, ids).sum()
    return loss


def test_passes_are_compared_by_bytes_that_grow_as_what_they_keep(wide_model: Path) -> None:
    _, model, _ = prepared(wide_model)
    flops, small = WhisperFlops.from_config(model.whisper.config), Shape(8, 400, 8)

    def kept(shape: Shape) -> int:
        with torch.autocast("cpu", dtype=torch.bfloat16), LiveMemory() as memory:
            loss = make_pass(model, shape)
        assert loss.requires_grad  # and is alive, with what it keeps
        gradients = 2 * shape.rows * shape.tokens * model.whisper.config.vocab_size * 4
        return memory.history[-1] + gradients  # of the logits, in the backward pass

    def ratio(large: Shape) -> float:
        counted = kept(large) - kept(small)
        return counted / (flops.activation_bytes(large) - flops.activation_bytes(small))

    longer, more_tokens = ratio(small._replace(frames=1600)), ratio(small._replace(tokens=80))
    assert 1.0 < longer < 2.0
    assert more_tokens == pytest.approx(longer, rel=0.3)


@pytest.mark.parametrize(
    ("precision", "gradient_checkpointing"), [("no", True), ("bf16", False), ("bf16", True)]
)
def test_two_small_passes_give_the_bytes_of_a_large_one(
    wide_model: Path, precision: Any, gradient_checkpointing: bool
) -> None:
    accelerator, model = engine_of(
        wide_model, precision, gradient_checkpointing=gradient_checkpointing
    )
    memory = memory_of(accelerator, model)
    estimated = (memory.peak(LARGE) - memory.base) / HEAP_FACTOR
    make_pass(model, Shape(1, 16, 1)).backward()  # allocates gradients
    with LiveMemory() as counted:
        make_pass(model, LARGE).backward()
    assert estimated == pytest.approx(max(counted.history), rel=0.01)
    assert counted.history[-1] < 0.1 * estimated  # what is freed is not counted


def test_longer_passes_and_more_rows_take_more_and_checkpointing_takes_less(
    wide_model: Path,
) -> None:
    accelerator, model, _ = prepared(wide_model)
    memory = memory_of(accelerator, model)
    sizes = [memory.peak(LARGE._replace(rows=rows)) for rows in (1, 2, 3)]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=1e-6)
    assert memory.peak(LARGE._replace(frames=3000)) > memory.peak(LARGE)
    assert memory.peak(LARGE._replace(tokens=400)) > memory.peak(LARGE)
    accelerator, model, _ = prepared(wide_model, gradient_checkpointing=True)
    less = memory_of(accelerator, model, gradient_checkpointing=True)
    assert less.peak(LARGE) < memory.peak(LARGE)


def test_measurements_of_fit_are_scaled(wide_model: Path, tmp_path: Path) -> None:
    accelerator, model, _ = prepared(wide_model)
    guess = memory_of(accelerator, model)
    tried = [
        {"shape": [12, 1504, 60], "most": 12, "gigabytes": 9.0, "took": 1.0},
        {"shape": [12, 160, 60], "most": 12, "gigabytes": 2.0, "took": 1.0},
    ]
    write_json(tmp_path / "fit.json", {"max_seconds_per_forward": 1.0, "tried": tried})
    known = memory_of(accelerator, model, tmp_path / "fit.json")
    assert (guess.source, known.source) == ("estimated from shapes", "as find-batch-size measured")
    assert known.peak(LARGE) == pytest.approx(known.base + HEAP_FACTOR * (9e9 - known.base))
    half = guess.peak(LARGE._replace(rows=6)) - guess.base
    share = half / (guess.peak(LARGE) - guess.base)
    assert known.peak(LARGE._replace(rows=6)) == pytest.approx(
        known.base + share * HEAP_FACTOR * (9e9 - known.base)
    )


def test_estimated_sizes_of_checkpoint_and_model_are_exact(
    wide_trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    wide_trainer(run, "--loop.max_steps=1")
    accelerator, model, optimizer = prepared(wide_trainer.model)
    try_largest_pass(Engine(accelerator, model, optimizer), Shape(1, 16, 1))
    told = disk_space(model, optimizer, CheckpointConfig(), tmp_path / "not" / "there", {1})
    sizes = {path: path.stat().st_size for path in run.rglob("*") if path.is_file()}
    saved = sum(size for path, size in sizes.items() if "step-00000001" in path.parts)
    assert told.checkpoint == pytest.approx(saved, rel=0.02)
    assert told.model == pytest.approx(sizes[run / "model" / "model.safetensors"], rel=0.02)
    assert told.free > 0
    assert told.needed == 3 * told.checkpoint + 2 * told.model


@pytest.mark.parametrize(
    ("knobs", "saves", "kept"),
    [
        ({}, {60}, 1),
        ({}, {500, 1000, 1500, 2000, 2500}, 4),  # the two newest, and a best one of each
        ({"keep": 9}, {500, 1000, 1500, 2000}, 4),
        ({"keep": 1, "keep_every": 2000}, set(range(500, 5001, 500)), 6),
    ],
)
def test_only_kept_checkpoints_are_counted(
    blank_model: Path, tmp_path: Path, knobs: dict[str, int], saves: set[int], kept: int
) -> None:
    _, model, optimizer = prepared(blank_model)
    assert disk_space(model, optimizer, CheckpointConfig(**knobs), tmp_path, saves).kept == kept


def test_a_device_has_memory() -> None:
    assert total_memory(torch.device("cpu")) > 1e8


def test_frozen_weights_have_no_gradients_or_optimizer_state(wide_model: Path) -> None:
    def taken(optim: OptimConfig, **knobs: Any) -> float:
        accelerator, model, _ = prepared(wide_model, **knobs)
        moments = optimizer_state_bytes(model, optim)
        memory = memory_of(accelerator, model, moments=moments)
        return memory.base - peak_memory(accelerator.device)

    def weights(**knobs: Any) -> list[int]:
        _, model, _ = prepared(wide_model, **knobs)
        return [p.nbytes for p in model.parameters() if p.requires_grad]

    adamw, small = OptimConfig(), OptimConfig(name="adamw8bit")
    assert taken(adamw) == 3 * sum(weights())
    assert taken(adamw, lora_rank=2) == 3 * sum(weights(lora_rank=2)) < sum(weights()) / 20
    frozen = {"freeze": ("proj_out", "model.encoder")}
    assert taken(adamw, **frozen) == 3 * sum(weights(**frozen))
    assert sum(weights()) < taken(small) < 1.8 * sum(weights())
