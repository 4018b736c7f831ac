"""The gradient does not depend on how an update is cut into passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from data.batch import IGNORE_INDEX, Batch, Position, target_positions
from data.batching.collate import Clip, PaddingCollator, Sample
from data.log_mel import LogMel
from data.sampling.bucketed_sampler import SampleSpec
from data.utterance import Utterance
from eval.whisper import load_whisper
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.state import Totals
from trainer.step import StepResult, reseed, set_lr, train_step

TEXTS = ("one", "two three four five", "six", "seven eight nine zero one two", "three", "four")


class Setup:
    """A small model, and clips with labels of ragged length."""

    def __init__(self, folder: Path) -> None:
        self.whisper = load_whisper(str(folder))
        self.accelerator = Accelerator(cpu=True)
        self.collator = PaddingCollator(self.whisper.labels(), LogMel(80))

    def module(self) -> TrainingModule:
        """Return the training module, in double precision: sums then hardly round."""
        self.whisper.model.double()
        return prepare_training(self.whisper, ModelConfig())

    def batches(self, clips_per_pass: int) -> list[Batch]:
        """Return the same clips, cut into passes."""
        torch.manual_seed(0)
        clips = [
            Clip(
                utterance=Utterance(id=str(i), audio="", text=text, language="en", seconds=3.0),
                waveform=torch.randn(48_000) * 0.1,
            )
            for i, text in enumerate(TEXTS)
        ]
        draw = SampleSpec((), Position(), Position(0, 1), is_last=False, frames=400)
        lines = [Sample(clips=[clip], spec=draw) for clip in clips]
        passes = [
            self.collator(lines[i : i + clips_per_pass])
            for i in range(0, len(lines), clips_per_pass)
        ]
        passes[-1].is_last = True
        for batch in passes:
            batch.features = batch.features.double()
        return passes


@pytest.fixture
def setup(blank_model: Path) -> Setup:
    """Return a fresh model and clips."""
    return Setup(blank_model)


def gradients(setup: Setup, clips_per_pass: int) -> dict[str, Tensor]:
    """Return the gradient of an update cut so."""
    module = setup.module()
    gradients: dict[str, Tensor] = {}

    class Recorder(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = parameter.grad.clone()

    optimizer = Recorder(module.parameters(), lr=1.0)
    update(setup, module, optimizer, setup.batches(clips_per_pass), max_norm=1e9)
    return gradients


def update(
    setup: Setup, module: TrainingModule, optimizer: Any, batches: list[Batch], *, max_norm: float
) -> StepResult:
    """Make an update of one process."""
    engine = Engine(setup.accelerator, module, optimizer)
    return train_step(engine, batches, tokens=Totals.of(batches).tokens, max_norm=max_norm)


@pytest.mark.parametrize("clips_per_pass", [1, 2, 4])
def test_gradient_does_not_depend_on_how_an_update_is_cut(
    setup: Setup, clips_per_pass: int
) -> None:
    whole, cut = gradients(setup, 6), gradients(setup, clips_per_pass)
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, cut[name], rtol=0, atol=1e-10), name


def test_loss_is_the_mean_over_tokens_that_the_stock_model_computes(setup: Setup) -> None:
    module = setup.module()
    (batch,) = setup.batches(6)
    tokens = sum(batch.tokens)
    with torch.no_grad():
        ours = module(batch.features, batch.decoder_input_ids, batch.labels).sum() / tokens
        padded = torch.zeros(6, 80, 3000, dtype=torch.float64)
        padded[..., :400] = batch.features
        stock = setup.whisper.model(
            input_features=padded, decoder_input_ids=batch.decoder_input_ids, labels=batch.labels
        ).loss
        short = module(padded, batch.decoder_input_ids, batch.labels).sum() / tokens
    assert short.item() == pytest.approx(stock.item(), rel=1e-9)
    assert ours.item() == pytest.approx(stock.item(), rel=0.2)  # other positions are heard


def test_a_pass_without_weight_changes_nothing(setup: Setup) -> None:
    batches = setup.batches(6)
    plain = gradients(setup, 6)
    empty = setup.batches(6)[0]
    empty.labels = torch.full_like(empty.labels, IGNORE_INDEX)
    empty.targets = target_positions(empty.labels)
    empty.tokens, empty.seconds, empty.is_last = [0] * 6, [0.0] * 6, False
    setup.batches = lambda _: [empty, *batches]  # type: ignore[method-assign]
    for name, gradient in gradients(setup, 6).items():
        assert torch.equal(gradient, plain[name]), name


def test_the_step_reports_what_it_trained_on(setup: Setup) -> None:
    module = setup.module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=9.0, fused=True)
    before = {name: p.clone() for name, p in module.named_parameters()}
    batches = setup.batches(3)
    totals = Totals.of(batches, dropped=3)
    assert totals.tokens == sum(sum(b.tokens) for b in batches)
    assert totals.audio_seconds == pytest.approx(18.0)
    assert totals.dropped == 3
    set_lr(optimizer, 1e-4)
    result = update(setup, module, optimizer, batches, max_norm=1.0)
    assert result.finite
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert result.grad_norm > 0
    moved = [n for n, p in module.named_parameters() if not torch.equal(p, before[n])]
    assert "whisper.model.encoder.layers.0.fc1.weight" in moved
    assert all(p.grad is None for p in module.parameters())


def test_randomness_is_a_function_of_seed_update_and_process() -> None:
    def drawn(seed: int, step: int, rank: int) -> float:
        reseed(seed, step, rank)
        return torch.rand(()).item()

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({drawn(1, 2, 3), drawn(0, 2, 3), drawn(1, 0, 3), drawn(1, 2, 0)}) == 4
