"""What references cost is what the stock model says, and needs no guess."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.audio import load
from data.config import DataConfig
from data.features import LogMel, pad_features
from data.loader import Stages, eval_batches
from data.manifest import read_held_out
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.likelihood import likelihoods
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]


@pytest.fixture
def evaluator(blank_model: Path, tone_corpus: Path) -> Iterator[Evaluator]:
    """Return what hears the tone corpus."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=load_whisper(str(blank_model)),
        data=DataConfig(corpus=(str(tone_corpus),), workers=0),
        config=EvalConfig(),
    )
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def rows(evaluator: Evaluator, tmp_path: Path) -> list[Utterance]:
    """Return the dev split, as a run's manifest has it."""
    encoder, cache = evaluator.whisper.labels(), tmp_path / "scan"
    return read_held_out(evaluator.data, encoder, cache, split="dev", show=False)[0]


def test_each_cost_is_the_stock_models_loss_of_that_clip(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    found = likelihoods(evaluator, rows)
    assert set(found) == {u.id for u in rows}
    model, encoder = evaluator.whisper.model.eval(), evaluator.whisper.labels()
    for u in rows:
        ids = torch.tensor([encoder.encode(u.text, u.language or "")])
        heard = pad_features(LogMel(evaluator.whisper.n_mels)(load(u)[None]))
        with torch.no_grad():
            loss = model(
                input_features=heard, decoder_input_ids=ids[:, :-1], labels=ids[:, 1:]
            ).loss
        assert found[u.id].tokens == ids.shape[1] - 1 == u.tokens - 1
        assert found[u.id].nll == pytest.approx(loss.item() * found[u.id].tokens, rel=1e-4)


def test_what_a_label_cannot_hold_has_no_cost(evaluator: Evaluator, rows: list[Utterance]) -> None:
    odd = {
        "special": replace(rows[0], id="special", text="<|en|> one"),
        "full": replace(rows[0], id="full", text="one " * 500, tokens=503),
        "long": replace(rows[0], id="long", seconds=31.0),
        "gone": replace(rows[0], id="gone", audio="/no/such.mp3"),
    }
    assert set(likelihoods(evaluator, [*rows[:2], *odd.values()])) == {u.id for u in rows[:2]}
    assert likelihoods(evaluator, [odd["long"]]) == {}
    assert likelihoods(evaluator, []) == {}


@pytest.mark.parametrize("training", [True, False])
def test_true_length_is_heard_and_the_model_goes_on_as_it_was(
    evaluator: Evaluator, rows: list[Utterance], training: bool
) -> None:
    evaluator.whisper.model.train(training)
    padded, short = (
        likelihoods(evaluator, rows, true_length=true_length) for true_length in (False, True)
    )
    assert evaluator.whisper.model.training is training
    assert padded.keys() == short.keys()
    assert any(padded[name].nll != short[name].nll for name in padded)
    for name, each in padded.items():
        assert short[name].nll == pytest.approx(each.nll, rel=0.05)  # silence stands in


def test_transcribing_is_not_told_the_references(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    stages = Stages(evaluator.whisper.labels(), evaluator.whisper.n_mels)
    (batch,) = eval_batches(rows[:1], evaluator.data, stages, [[0]])
    assert batch.tokens == [len(evaluator.whisper.labels().encode("", "en")) - 1]
