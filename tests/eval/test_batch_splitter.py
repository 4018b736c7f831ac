"""A batch that does not fit in memory is decoded in parts, and the scores are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import eval.evaluate as evaluation
from data.batch import Batch
from data.config import DataConfig
from data.corpora import read
from data.errors import InputError
from data.utterance import Utterance
from eval import static_cache
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.generate import encode
from eval.greedy import GreedyDecoder
from eval.static_cache import CacheShape, DecodingState
from eval.whisper import Whisper, load_whisper

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def clips(blank_model: Path, tone_corpus: Path) -> list[Utterance]:
    """Return the test split of the tone corpus, with the number of tokens of each label."""
    labels = load_whisper(str(blank_model)).labels()
    found = list(read(DataConfig(corpus=(str(tone_corpus),)), "test"))
    counts = labels.count_tokens([u.text for u in found], ["en"] * len(found))
    return [replace(u, tokens=n) for u, n in zip(found, counts, strict=True)]


@pytest.fixture
def evaluator(blank_model: Path) -> Evaluator:
    """Return an evaluator without worker processes, which decodes all clips together."""
    return Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=load_whisper(str(blank_model)),
        data=DataConfig(workers=0),
        config=EvalConfig(max_length=6),
    )


class Memory:
    """An encoder with memory for some clips only."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.attempts: list[int] = []

    def encode(self, whisper: Whisper, batch: Batch) -> Tensor | None:
        """Fail as a GPU does, or encode."""
        self.attempts.append(len(batch.ids))
        if len(batch.ids) > self.clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(whisper, batch)


def test_a_batch_that_does_not_fit_is_halved(
    evaluator: Evaluator,
    clips: list[Utterance],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = clips[:6]
    expected = evaluator.evaluate(clips, "test", with_reference_loss=True)[1]
    capsys.readouterr()
    memory = Memory(2)
    monkeypatch.setattr(evaluation, "encode", memory.encode)
    found = evaluator.evaluate(clips, "test", with_reference_loss=True)[1]
    assert [h.text for h in found] == [h.text for h in expected]
    losses, whole = (
        [h.reference_loss.nll for h in each if h.reference_loss] for each in (found, expected)
    )
    assert losses == pytest.approx(whole, rel=1e-5)
    assert len(losses) == len(clips)
    assert memory.attempts == [6, 3, 1, 2, 1, 2]  # the second 3 are split without an attempt
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warnings == [
        "warning: out of memory in an evaluation batch of 6 clips (CUDA out of memory. Tried to "
        "allocate 2.00 GiB.): batches over 90 s of padded audio are now split; set "
        "eval.batch_seconds=90, so that no attempt fails",
        "warning: out of memory in an evaluation batch of 3 clips (CUDA out of memory. Tried to "
        "allocate 2.00 GiB.): batches over 60 s of padded audio are now split; set "
        "eval.batch_seconds=60, so that no attempt fails",
    ]


def test_a_half_allocates_less_memory_than_the_batch_that_did_not_fit(
    evaluator: Evaluator, clips: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[int] = []

    def allocate(model: Any, shape: CacheShape) -> DecodingState:
        allocated.append(shape.rows)
        return static_cache.allocate(model, shape)

    def fail(self: GreedyDecoder, state: DecodingState, rows: int, *rest: Any) -> None:
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        step(self, state, rows, *rest)

    step = GreedyDecoder._step
    monkeypatch.setattr("eval.greedy.allocate", allocate)
    monkeypatch.setattr(GreedyDecoder, "_step", fail)
    evaluator.evaluate(clips[:6], "test")
    assert allocated == [6, 3, 1, 2]


def test_a_single_clip_that_does_not_fit_is_an_input_error(
    evaluator: Evaluator, clips: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "encode", Memory(0).encode)
    told = r"out of memory in an evaluation batch of 1 clip, .*: set precision=bf16"
    with pytest.raises(InputError, match=told):
        evaluator.evaluate(clips, "test")


def test_another_error_is_not_retried(
    evaluator: Evaluator, clips: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def fail(_: Whisper, batch: Batch) -> None:
        attempts.append(len(batch.ids))
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(evaluation, "encode", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        evaluator.evaluate(clips, "test")
    assert attempts == [6]


@pytest.mark.parametrize("true_length", [False, True])
def test_the_encoder_runs_once_for_each_clip(
    evaluator: Evaluator, clips: list[Utterance], true_length: bool
) -> None:
    rows: list[int] = []
    encoder = evaluator.whisper.model.model.encoder
    encoder.register_forward_hook(lambda _, __, out: rows.append(len(out.last_hidden_state)))
    evaluator.evaluate(clips, "test", true_length=true_length, with_reference_loss=True)
    assert sum(rows) == len(clips) + true_length  # once for the states of silence
