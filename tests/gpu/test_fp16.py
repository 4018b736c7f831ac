"""Loss scaling: what it makes of updates without a target, and of a rehearsal."""

from typing import Any

import pytest
import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper
from gpu.rows import record, smoke

from data.batch import Batch, Shape
from eval.whisper import Whisper
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.out_of_memory import try_largest_pass
from trainer.step import StepResult, train_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

TRIES = 12  # updates until the loss scale has come down to what does not overflow


class Training:
    """A model that is trained in fp16, or in fp32 where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        """Make the model and its optimizer."""
        self.accelerator = fresh_accelerator(device, "fp16" if device.type == "cuda" else "no")
        self.whisper: Whisper = random_whisper("nano" if smoke() else "tiny", device)
        self.module = prepare_training(self.whisper, ModelConfig()).train()
        self.model, self.optimizer = self.accelerator.prepare(
            self.module, build_optimizer(self.module, OptimConfig(lr=1e-3))
        )

    def update(self, batch: Batch) -> StepResult:
        """Make an update of one pass."""
        return train_step(
            Engine(self.accelerator, self.model, self.optimizer),
            [batch],
            tokens=sum(batch.tokens),
            max_norm=1.0,
        )

    def weights(self) -> list[torch.Tensor]:
        """Return a copy of all weights."""
        return [weight.detach().clone() for weight in self.module.parameters()]

    def moved_from(self, before: list[torch.Tensor]) -> bool:
        """Tell whether any weight is another."""
        return not all(map(torch.equal, before, self.module.parameters()))


def states_of(optimizer: Any) -> int:
    """Return how many weights an optimizer keeps moments of."""
    return sum("exp_avg" in each for each in optimizer.state_dict()["state"].values())


def test_after_an_update_whose_clips_all_failed_the_next_one_is_made(device: torch.device) -> None:
    training = Training(device)
    good = noise_batch(training.whisper, device, 2, 0.96)
    empty = noise_batch(training.whisper, device, 2, 0.96, failed=True)
    assert sum(empty.tokens) == 0
    before = training.weights()
    for _ in range(2):
        training.update(empty)
    assert not training.moved_from(before), "weights should stay where all clips failed; they moved"
    made = 0
    for _ in range(TRIES):
        made += bool(training.update(good).finite)
    record("good updates after failed clips", tried=TRIES, made=made)
    assert training.moved_from(before), "good updates should move weights; they did not"


def test_an_update_without_targets_moves_nothing_once_there_are_moments(
    device: torch.device,
) -> None:
    training = Training(device)
    good = noise_batch(training.whisper, device, 2, 0.96)
    for _ in range(TRIES):
        training.update(good)
    before = training.weights()
    training.update(noise_batch(training.whisper, device, 2, 0.96, failed=True))
    assert not training.moved_from(before), "momentum alone should move nothing; it did"
    training.update(good)


def test_a_rehearsal_makes_the_moments_and_moves_nothing(device: torch.device) -> None:
    training = Training(device)
    before = training.weights()
    parts = (training.accelerator, training.model, training.optimizer)
    assert try_largest_pass(Engine(*parts), Shape(2, 96, 8)) is None
    trained = sum(weight.requires_grad for weight in training.module.parameters())
    made = states_of(training.optimizer)
    record("rehearsal", moments=made, weights=trained)
    assert not training.moved_from(before), "a rehearsal should move no weight; it did"
    assert made == trained, f"moments of all {trained} weights should be there, found {made}"
    training.update(noise_batch(training.whisper, device, 2, 0.96))
