"""Temperature fallback, token limits and timestamps of decoding."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, eval_batches
from data.errors import InputError
from data.labels import END, LAST_TIME
from data.utterance import Utterance
from eval.config import EXTRA_TOKENS, EvalConfig
from eval.fallback import FallbackDecision, compression_ratio, fallback_decision
from eval.generate import DecodeResult, Window, encode, transcribe
from eval.whisper import Whisper, load_whisper
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

SHORT = EvalConfig(max_length=16)
FALLBACK = EvalConfig(max_length=8, fallback=True)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory, tone_corpus: Path) -> Path:
    """Return the folder of a model that never predicts the end token, with low probabilities."""
    out = tmp_path_factory.mktemp("model") / "talkative"
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    make_tiny_model(
        TinyModelConfig(out=str(out), corpus=(str(tone_corpus),), init_std=0.3, **shape)
    )
    return out


@pytest.fixture
def whisper(talkative: Path) -> Whisper:
    """Return that model, loaded."""
    whisper = load_whisper(str(talkative))
    whisper.model.eval()
    return whisper


@pytest.fixture
def timed(whisper: Whisper) -> Whisper:
    """Return it with timestamp tokens."""
    torch.manual_seed(0)
    size = whisper.model.config.vocab_size + LAST_TIME + 1
    whisper.model.resize_token_embeddings(size, mean_resizing=False)
    assert whisper.labels().has_timestamps
    return whisper


@pytest.fixture
def rows(tone_corpus: Path) -> list[Utterance]:
    """Return the test split, the longest first."""
    found = read(DataConfig(corpus=(str(tone_corpus),)), "test")
    return sorted(found, key=lambda u: -u.seconds)


def batch_of(whisper: Whisper, rows: list[Utterance], *, true_length: bool = True) -> Batch:
    """Return a Batch of clips, as an evaluation prepares it."""
    stages, group = BatchPreparer(whisper.labels(), whisper.n_mels), list(range(len(rows)))
    config = DataConfig(workers=0)
    (batch,) = eval_batches(rows, config, stages, [group], true_length=true_length)
    return batch


def heard(
    whisper: Whisper, rows: list[Utterance], config: EvalConfig, **how: bool
) -> list[DecodeResult]:
    """Transcribe one batch."""
    batch = batch_of(whisper, rows, **how)
    return transcribe(whisper, batch, config, encode(whisper, batch))


def ending(whisper: Whisper) -> Whisper:
    """Make a model predict the end token at once."""
    decoder = whisper.model.model.decoder
    with torch.no_grad():
        decoder.layer_norm.bias += 3.0
        decoder.embed_tokens.weight[whisper.labels().end_id] = 3.0  # it is what comes out, too
    return whisper


# length


def test_a_text_without_an_end_token_is_cut_off_and_marked_truncated(
    whisper: Whisper, rows: list[Utterance]
) -> None:
    for h in heard(whisper, rows[:2], SHORT):
        assert h.truncated
        assert 8 <= h.tokens <= 16  # this model says special tokens as well


def test_a_text_with_an_end_token_is_not_truncated(whisper: Whisper, rows: list[Utterance]) -> None:
    assert (
        heard(ending(whisper), rows[:2], SHORT)
        == [DecodeResult(text="", tokens=0, truncated=False)] * 2
    )


def test_the_token_limit_of_a_clip_does_not_depend_on_its_batch(
    whisper: Whisper, rows: list[Utterance]
) -> None:
    config = EvalConfig(tokens_per_second=10.0)
    longest, shortest = rows[0], rows[-1]
    assert longest.seconds > 2 * shortest.seconds
    together = heard(whisper, [longest, shortest], config, true_length=False)
    alone = [heard(whisper, [u], config, true_length=False)[0] for u in (longest, shortest)]
    assert together == alone
    for u, h in zip((longest, shortest), together, strict=True):
        assert h.truncated
        assert h.tokens <= EXTRA_TOKENS + round(10 * u.seconds)
    assert together[1].tokens < together[0].tokens


def test_long_audio_is_truncated_if_any_window_is(
    whisper: Whisper, rows: list[Utterance], tmp_path: Path, write_clip: Any
) -> None:
    path = write_clip(tmp_path / "long.wav", 31.0)
    long = replace(rows[0], id="long", audio=str(path), seconds=31.0)
    (endless,) = heard(whisper, [long], SHORT)
    (whole,) = heard(ending(whisper), [long], SHORT)
    assert (endless.truncated, whole.truncated) == (True, False)
    assert endless.tokens > 16  # in two windows
    assert whole.tokens < endless.tokens


# fallback


def spoken(logits: Tensor) -> Any:
    """Return a Whisper whose decoder returns these logits. Shape: (tokens, vocabulary)."""
    vocabulary = {"<|nospeech|>": 3}
    tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary)
    return SimpleNamespace(
        model=lambda **_: SimpleNamespace(logits=logits[None]),
        processor=SimpleNamespace(tokenizer=tokenizer),
    )


@pytest.mark.parametrize(
    ("sure", "silent", "text", "verdict"),
    [
        (0.9, 0.0, "one two three", FallbackDecision.ACCEPT),
        (
            0.9,
            0.99,
            "one two three",
            FallbackDecision.ACCEPT,
        ),  # a high log-probability wins
        (0.1, 0.0, "one two three", FallbackDecision.RETRY),
        (0.1, 0.99, "one two three", FallbackDecision.NO_SPEECH),
        (0.9, 0.0, "one two three " * 12, FallbackDecision.RETRY),
        (0.37, 0.0, "one", FallbackDecision.ACCEPT),  # e ** -1 is 0.368
        (0.36, 0.0, "one", FallbackDecision.RETRY),
    ],
)
def test_fallback_decisions_follow_whispers_thresholds(
    sure: float, silent: float, text: str, verdict: FallbackDecision
) -> None:
    ids = [0, 1, 2, 2, 2]  # start, language, text
    logits = torch.full((5, 4), (1 - sure) / 3).log()
    logits[1:4, 2] = torch.tensor(sure).log()
    logits[0] = torch.tensor([(1 - silent) / 3] * 3 + [silent]).log()
    assert fallback_decision(spoken(logits), torch.zeros(1, 2, 2), ids, 2, text) == verdict


def test_a_repetitive_text_has_a_high_compression_ratio() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("The number you have dialed is not in service.") < 1.2
    assert compression_ratio("I'm not sure. " * 16) > 5


def test_sampling_is_reproducible_in_any_batch(whisper: Whisper, rows: list[Utterance]) -> None:
    rows = rows[1:4]
    greedy = [h.text for h in heard(whisper, rows, EvalConfig(max_length=8), true_length=False)]
    together = [h.text for h in heard(whisper, rows, FALLBACK, true_length=False)]
    again = [h.text for h in heard(whisper, rows[::-1], FALLBACK, true_length=False)][::-1]
    alone = [heard(whisper, [u], FALLBACK, true_length=False)[0].text for u in rows]
    assert together == again == alone
    assert together != greedy  # it is sure of nothing
    assert len(set(together)) > 1  # each clip draws for itself


def test_sampling_does_not_change_the_global_random_state(
    whisper: Whisper, rows: list[Utterance]
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    heard(whisper, rows[:1], FALLBACK)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_accepted_hypothesis_is_not_decoded_again(
    whisper: Whisper, rows: list[Utterance]
) -> None:
    assert heard(ending(whisper), rows[:2], FALLBACK) == heard(whisper, rows[:2], SHORT)


def test_a_clip_without_speech_has_an_empty_text(
    whisper: Whisper, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.generate.fallback_decision", lambda *_: FallbackDecision.NO_SPEECH)
    silent = DecodeResult(text="", tokens=0, truncated=False)
    assert heard(whisper, rows[:2], FALLBACK) == [silent, silent]


def test_fallback_works_with_beam_search_and_long_audio(
    timed: Whisper, rows: list[Utterance], tmp_path: Path, write_clip: Any
) -> None:
    path = write_clip(tmp_path / "long.wav", 31.0)
    long = replace(rows[0], id="long", audio=str(path), seconds=31.0)
    config = replace(FALLBACK, num_beams=2, max_length=6)
    for clips in ([long], rows[:2]):
        assert heard(timed, clips, config) == heard(timed, clips, config)


# times


def test_timestamps_are_decoded_but_not_in_the_text(timed: Whisper, rows: list[Utterance]) -> None:
    config = replace(SHORT, timestamps=True)
    batch = batch_of(timed, rows[:2])
    states = encode(timed, batch)
    assert states is not None
    ids = [i for row in Window(timed, batch, config, states).decode([0, 1]) for i in row]
    first = timed.labels().timestamp_token(0.0)
    assert any(i >= first for i in ids)
    for h in transcribe(timed, batch, config, states):
        assert "<|" not in h.text
        assert h.tokens < 16  # times are none


def test_a_model_without_timestamps_rejects_eval_timestamps(
    whisper: Whisper, rows: list[Utterance]
) -> None:
    with pytest.raises(InputError, match=r"eval\.timestamps: .*talkative has no timestamp tokens"):
        heard(whisper, rows[:1], replace(SHORT, timestamps=True))


def test_results_are_cut_at_the_first_end_token(whisper: Whisper, rows: list[Utterance]) -> None:
    batch = batch_of(whisper, rows[:1])
    states = encode(whisper, batch)
    assert states is not None
    window = Window(whisper, batch, SHORT, states)
    prefix = whisper.labels().prefix(rows[0].language or "")
    one = whisper.processor.tokenizer(" one", add_special_tokens=False)["input_ids"]
    end = whisper.labels().vocabulary[END]
    assert window.result(0, [*prefix, *one, end, end]) == DecodeResult(text="one", tokens=len(one))
    assert window.result(0, [*prefix, *one]) == DecodeResult(
        text="one", tokens=len(one), truncated=True
    )
