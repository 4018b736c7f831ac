"""With fp16 the GradScaler works after an update that was skipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.batch import IGNORE_INDEX, Batch, Position, Shape, target_positions
from eval.whisper import load_whisper
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.out_of_memory import try_largest_pass
from trainer.step import StepResult, train_step

pytestmark = pytest.mark.usefixtures("one_thread")


class Training:
    """A small model, trained in fp16 with a loss scaler on the CPU."""

    def __init__(self, model: Path) -> None:
        self.accelerator = Accelerator(cpu=True)
        # Accelerate has no fp16 on a CPU, but torch has autocast and a GradScaler for it
        AcceleratorState._shared_state["_mixed_precision"] = "fp16"
        self.accelerator.native_amp = True
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        module = prepare_training(load_whisper(str(model)), ModelConfig()).train()
        made = build_optimizer(module, OptimConfig(lr=1e-3))
        self.model, self.optimizer = self.accelerator.prepare(module, made)
        self.engine = Engine(self.accelerator, self.model, self.optimizer)

    def update(self, *, failed: bool = False) -> StepResult:
        """Make an update of two clips, or of two that have failed."""
        ids = torch.tensor([[1, 5, 9, 4], [1, 7, 3, 8]])
        tokens = 0 if failed else 8
        labels = torch.full_like(ids, IGNORE_INDEX) if failed else ids.roll(-1, 1)
        batch = Batch(
            ids=["a", "b"],
            languages=["en", "en"],
            tasks=["transcribe", "transcribe"],
            features=torch.randn(2, 80, 64, generator=torch.Generator().manual_seed(0)),
            decoder_input_ids=ids,
            labels=labels,
            targets=target_positions(labels),
            seconds=[0.64, 0.64],
            tokens=[tokens // 2] * 2,
            position=Position(),
            next_position=Position(0, 1),
            is_last=True,
        )
        return train_step(
            Engine(self.accelerator, self.model, self.optimizer),
            [batch],
            tokens=tokens,
            max_norm=1.0,
        )


@pytest.fixture
def training(blank_model: Path) -> Iterator[Training]:
    """Return a fresh model in fp16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Training(blank_model)
    AcceleratorState._reset_state(reset_partial_state=True)


def moved(training: Training) -> bool:
    """Make an update, and return whether it changed a weight."""
    before = [weight.clone() for weight in training.model.parameters()]
    assert training.update().finite
    return any(
        not torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True)
    )


def test_an_update_whose_clips_all_failed_moves_nothing_and_the_next_one_is_made(
    training: Training,
) -> None:
    assert moved(training)
    before = [weight.clone() for weight in training.model.parameters()]
    training.update(failed=True)
    assert all(map(torch.equal, before, training.model.parameters()))
    assert moved(training)
    assert training.accelerator.scaler.get_scale() == 1024.0


@contextmanager
def full_in_the_optimizer(training: Training, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let memory run out in the optimizer's step."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(training.optimizer.optimizer, "_init_group", full)
        yield


def test_running_out_of_memory_in_the_optimizer_does_not_stop_the_next_update(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_in_the_optimizer(training, monkeypatch), pytest.raises(torch.OutOfMemoryError):
        training.update()
    training.engine.discard_gradients()
    assert moved(training)


def test_a_rehearsal_that_runs_out_of_memory_in_the_optimizer_can_be_repeated(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_in_the_optimizer(training, monkeypatch):
        assert try_largest_pass(training.engine, Shape(2, 64, 4)) == "CUDA out of memory."
    assert try_largest_pass(training.engine, Shape(1, 64, 4)) is None
    assert moved(training)


def test_an_update_may_be_discarded_before_any_loss_was_scaled(training: Training) -> None:
    training.engine.discard_gradients()
    assert training.accelerator.scaler.get_scale() == 1024.0
    assert moved(training)


def test_a_rehearsal_makes_the_moments_and_keeps_scale_and_weights(training: Training) -> None:
    before = [weight.clone() for weight in training.model.parameters()]
    parts = (training.accelerator, training.model, training.optimizer)
    assert try_largest_pass(Engine(*parts), Shape(2, 64, 4)) is None
    assert all(map(torch.equal, before, training.model.parameters()))
    states = training.optimizer.state_dict()["state"]
    assert len(states) == sum(p.requires_grad for p in training.model.parameters())
    assert all(float(each["step"]) == 0 for each in states.values())
    assert training.accelerator.scaler.get_scale() == 1024.0
    assert moved(training)
