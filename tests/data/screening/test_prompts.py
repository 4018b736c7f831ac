"""Labels with times, and with what was said before: drawn from the plan, and never a target."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import IGNORE, Batch, Position
from data.batching.collate import Clip, PaddingCollator, Sample
from data.config import DataConfig
from data.errors import InputError
from data.labels import PROMPT_TOKENS, LabelEncoder
from data.log_mel import LogMel
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.epoch_plan import Plan
from data.screening.prompts import add_prompts
from data.utterance import Utterance
from eval.whisper import load_whisper
from trainer.model import TrainingModule

WriteClip = Callable[..., Path]
NOW = Position()


@pytest.fixture(scope="module")
def encoder(blank_model: Path) -> LabelEncoder:
    """Return the encoder of a small model, as if it had classes for times."""
    small = load_whisper(str(blank_model)).labels()
    return LabelEncoder(small.tokenizer, max_tokens=448, multilingual=True, vocabulary_size=51_865)


def said(text: str, seconds: float = 1.0, prompt: str = "", drop: Any = None) -> Clip:
    """Return a decoded clip."""
    u = Utterance(id=text, audio="", text=text, seconds=seconds, language="en", prompt=prompt)
    return Clip(
        utterance=u, waveform=torch.zeros(0 if drop else round(16_000 * seconds)), drop=drop
    )


def line(*clips: Clip, timed: bool = False, prompted: bool = False) -> Sample:
    """Return a row of clips."""
    draw = SampleSpec(tuple(range(len(clips))), NOW, NOW, last=True, frames=320)
    return Sample(clips=list(clips), draw=draw._replace(timed=timed, prompted=prompted))


def collate(encoder: LabelEncoder, *lines: Sample) -> Batch:
    """Return the batch of some rows."""
    return PaddingCollator(encoder, LogMel(80))(list(lines))


def targets(batch: Batch, row: int = 0) -> list[int]:
    """Return a row's targets."""
    return [int(label) for label in batch.labels[row] if label != IGNORE]


def test_times_stand_around_what_was_said_then(encoder: LabelEncoder) -> None:
    batch = collate(encoder, line(said("one", 1.0), said("two", 0.5), timed=True))
    start, language, task, *rest = batch.decoder_input_ids[0].tolist()
    assert start == encoder.start
    one, two = encoder.pieces(["one", "two"], "en")
    zero, first, second = (encoder.time(seconds) for seconds in (0.0, 1.0, 1.5))
    assert first - zero == 50
    assert targets(batch) == [language, task, zero, *one, first, first, *two, second, encoder.end]
    assert rest == targets(batch)[2:-1]
    assert sum(batch.tokens) == len(targets(batch))


def test_without_a_share_no_row_has_times(encoder: LabelEncoder) -> None:
    batch = collate(encoder, line(said("one")))
    assert targets(batch) == encoder.encode("one", "en")[1:]


def test_what_cannot_be_heard_has_no_time_of_its_own(encoder: LabelEncoder) -> None:
    batch = collate(encoder, line(said("one"), said("x", drop=object()), said("two"), timed=True))
    one, two = encoder.pieces(["one", "two"], "en")
    times = [encoder.time(seconds) for seconds in (0.0, 1.0, 1.0, 2.0)]
    ids = [times[0], *one, times[1], times[2], *two, times[3], encoder.end]
    assert targets(batch)[2:] == ids
    assert batch.tokens[1] == 0


def test_a_prompt_is_read_and_not_learnt(encoder: LabelEncoder) -> None:
    plain = collate(encoder, line(said("two", prompt="one")))
    prompted = collate(encoder, line(said("two", prompt="one"), prompted=True))
    assert targets(prompted) == targets(plain)
    assert prompted.tokens == plain.tokens
    before = prompted.decoder_input_ids[0].tolist()
    at = before.index(encoder.start)
    assert before[:at] == encoder.context("one", room=100)
    assert before[at:] == plain.decoder_input_ids[0].tolist()
    assert before[0] == encoder.vocabulary["<|startofprev|>"]
    assert (prompted.labels[0, :at] == IGNORE).all()


def test_rows_with_and_without_a_prompt_share_a_batch(encoder: LabelEncoder) -> None:
    lines = [line(said("two", prompt="one three"), prompted=True), line(said("four four"))]
    both = collate(encoder, *lines)
    for number, each in enumerate(lines):
        assert targets(both, number) == targets(collate(encoder, each))


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 9, 40])
def test_no_label_is_longer_than_the_decoder(encoder: LabelEncoder, spare: int) -> None:
    most = len(encoder.encode("one two", "en")) + spare
    tight = LabelEncoder(
        encoder.tokenizer, max_tokens=most, multilingual=True, vocabulary_size=51_865
    )
    row = line(said("one two", prompt="three " * 50), timed=True, prompted=True)
    batch = collate(tight, row)
    assert batch.decoder_input_ids.shape[1] + 1 <= most
    assert len(targets(batch)) == most - spare - 1 + (spare >= 2)  # two times for <|notimestamps|>


def test_of_a_long_prompt_the_end_is_kept(encoder: LabelEncoder) -> None:
    ids = encoder.context("one " * 400 + "two", room=448)
    assert len(ids) == 1 + PROMPT_TOKENS
    assert ids[-1] == encoder.context("two", room=448)[-1]
    assert encoder.context("one", room=1) == []


def test_a_slice_is_prompted_with_the_one_before_it(encoder: LabelEncoder) -> None:
    def part(text: str, start: float, seconds: float = 1.0, audio: str = "/talk.wav") -> Utterance:
        return Utterance(
            id=text, audio=audio, text=text, start=start, end=start + seconds, seconds=seconds
        )

    rows = [
        part("three", 2.5),
        part("one", 0.0),
        part("two", 1.2),
        part("after a pause", 60.0),
        part("other", 0.0, audio="/other.wav"),
        Utterance(id="whole", audio="/whole.wav", text="whole", seconds=2.0),
    ]
    add_prompts(rows, encoder)
    assert [u.prompt for u in rows] == ["two", "", "one", "", "", ""]
    assert [u.prompt_tokens > 0 for u in rows] == [bool(u.prompt) for u in rows]


def test_shares_are_kept_and_drawn_anew_in_each_epoch() -> None:
    rows = [
        Utterance(id=str(n), audio="", text="", seconds=2.0, tokens=9, prompt_tokens=n % 2)
        for n in range(400)
    ]
    config = DataConfig(timestamp_probability=0.3, prompt_probability=0.5, pad="bucket")
    plan = Plan.of(rows, config, seed=0)

    def drawn(epoch: int) -> dict[int, tuple[bool, bool]]:
        sampler = BucketedBatchSampler(
            plan, config, updates=len(plan.updates(epoch)), start=Position(epoch, 0)
        )
        return {d.clips[0]: (d.timed, d.prompted) for each in sampler for d in each}

    first, second = drawn(0), drawn(1)
    assert sum(timed for timed, _ in first.values()) / 400 == pytest.approx(0.3, abs=0.06)
    assert sum(prompted for _, prompted in first.values()) / 200 == pytest.approx(0.5, abs=0.09)
    assert not any(prompted for n, (_, prompted) in first.items() if n % 2 == 0)
    assert first == drawn(0)
    assert first != second


def test_memory_is_planned_with_times_and_prompts() -> None:
    rows = [
        Utterance(id=str(n), audio="", text="", seconds=2.0, tokens=9, prompt_tokens=20)
        for n in range(64)
    ]
    config = DataConfig(
        timestamp_probability=1.0, prompt_probability=1.0, pad="bucket", max_tokens_per_forward=64
    )
    plan = Plan.of(rows, config, seed=0)
    for each in BucketedBatchSampler(plan, config, updates=len(plan.updates(0))):
        assert len(each) == 2  # of 9 + 2 + 21 tokens


def test_a_model_without_times_is_a_sentence(
    tone_corpus: Path, blank_model: Path, tmp_path: Path
) -> None:
    small = load_whisper(str(blank_model)).labels()
    assert not small.knows_times
    config = DataConfig(corpus=(str(tone_corpus),), timestamp_probability=0.5, workers=0)
    with pytest.raises(InputError, match=r"data.timestamp_probability is 0.5, but .* has no times"):
        build_manifest(config, small, tmp_path / "cache", show=False)


def test_slices_of_a_recording_are_trained_with_prompts(
    blank_model: Path, write_clip: WriteClip, tmp_path: Path
) -> None:
    write_clip(tmp_path / "talk.wav", 9.0)
    rows = [
        {"path": "talk.wav", "text": text, "start": 3 * n, "end": 3 * n + 2.5, "language": "en"}
        for n, text in enumerate(("one", "two two", "three"))
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whisper = load_whisper(str(blank_model))
    config = DataConfig(
        corpus=(str(tmp_path),), dev_split=None, test_split=None, prompt_probability=1.0, workers=0
    )
    manifest, drops = build_manifest(config, whisper.labels(), tmp_path / "cache", show=False)
    assert [u.prompt for u in manifest.train] == ["", "one", "two two"]
    assert drops == []
    lines = [
        Sample(
            clips=[Clip(utterance=u, waveform=torch.randn(40_000))],
            draw=SampleSpec((0,), NOW, NOW, last=True, frames=256, prompted=bool(u.prompt)),
        )
        for u in manifest.train
    ]
    batch = PaddingCollator(whisper.labels(), LogMel(80))(lines)
    module = TrainingModule(whisper.model, freeze_encoder=False)
    told = module(batch.features, batch.decoder_input_ids, batch.labels).sum()
    told.backward()
    assert torch.isfinite(told)
    # what was said before is heard: with another prompt, another loss
    others = [replace(c.utterance, prompt="four") for each in lines for c in each.clips]
    for each, u in zip(lines, others, strict=True):
        each.clips[0].utterance = u
    again = PaddingCollator(whisper.labels(), LogMel(80))(lines)
    assert module(again.features, again.decoder_input_ids, again.labels).sum() != told
