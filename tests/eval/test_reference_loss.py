"""What references cost is what the stock model says, and needs no guess."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.audio.decode import load_audio
from data.config import DataConfig
from data.log_mel import LogMel, pad_features
from data.manifest import read_held_out
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.reference_loss import ReferenceLoss
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
        config=EvalConfig(max_length=8),
    )
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def rows(evaluator: Evaluator, tmp_path: Path) -> list[Utterance]:
    """Return the dev split, as a run's manifest has it."""
    encoder, cache = evaluator.whisper.labels(), tmp_path / "scan"
    return read_held_out(evaluator.data, encoder, cache, split="dev", show=False)[0]


def costs(
    evaluator: Evaluator, rows: list[Utterance], *, true_length: bool = False
) -> dict[str, ReferenceLoss | None]:
    """Return what the references cost, by id."""
    found = evaluator.evaluate(rows, "", true_length=true_length, with_reference_loss=True)[1]
    return {h.utterance.id: h.reference_loss for h in found}


def test_each_cost_is_the_stock_models_loss_of_that_clip(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    found = costs(evaluator, rows)
    model, encoder = evaluator.whisper.model.eval(), evaluator.whisper.labels()
    for u in rows:
        ids = torch.tensor([encoder.encode(u.text, u.language or "")])
        heard = pad_features(LogMel(evaluator.whisper.n_mels)(load_audio(u)[None]))
        with torch.no_grad():
            loss = model(
                input_features=heard, decoder_input_ids=ids[:, :-1], labels=ids[:, 1:]
            ).loss
        cost = found[u.id]
        assert cost is not None
        assert cost.tokens == ids.shape[1] - 1 == u.tokens - 1
        assert cost.nll == pytest.approx(loss.item() * cost.tokens, rel=1e-4)


def test_what_a_label_cannot_hold_is_heard_and_has_no_cost(
    evaluator: Evaluator, rows: list[Utterance], write_clip: WriteClip, tmp_path: Path
) -> None:
    long = write_clip(tmp_path / "long.wav", 31.0)
    odd = {
        "special": replace(rows[0], id="special", text="<|en|> one"),
        "full": replace(rows[0], id="full", text="one " * 500, tokens=503),
        "long": replace(rows[0], id="long", audio=str(long), seconds=31.0),
        "uncounted": replace(rows[0], id="uncounted", tokens=0),
    }
    found = costs(evaluator, [*rows[:2], *odd.values()])
    assert {name for name, cost in found.items() if cost is None} == odd.keys()


@pytest.mark.parametrize("training", [True, False])
def test_true_length_is_heard_and_the_model_goes_on_as_it_was(
    evaluator: Evaluator, rows: list[Utterance], training: bool
) -> None:
    evaluator.whisper.model.train(training)
    padded, short = (costs(evaluator, rows, true_length=each) for each in (False, True))
    assert evaluator.whisper.model.training is training
    assert padded != short
    for name, each in padded.items():
        one = short[name]
        assert each is not None
        assert one is not None
        assert one.nll == pytest.approx(each.nll, rel=0.05)  # silence stands in


def test_transcribing_does_not_hear_the_references(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    told, untold = (
        evaluator.evaluate(rows, "", with_reference_loss=each)[1] for each in (True, False)
    )
    assert [h.text for h in told] == [h.text for h in untold]
    assert all(h.reference_loss for h in told)
    assert not any(h.reference_loss for h in untold)


def test_a_batch_is_encoded_once(
    evaluator: Evaluator, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = evaluator.whisper.model.model.encoder, []
    monkeypatch.setattr(
        encoder, "forward", lambda *a, f=encoder.forward, **k: calls.append(1) or f(*a, **k)
    )
    costs(evaluator, rows)
    assert len(calls) == evaluator.shard(rows, evaluator._rows_in_seconds, true_length=False)[1]
