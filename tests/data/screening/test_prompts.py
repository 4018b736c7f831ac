"""Labels with timestamps and prompts: drawn by the plan; prompts are never targets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import IGNORE_INDEX, Batch, Position
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
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return the LabelEncoder of a small model, with timestamp tokens."""
    small = load_whisper(str(blank_model)).labels()
    return LabelEncoder(small.tokenizer, max_tokens=448, multilingual=True, vocabulary_size=51_865)


def said(text: str, seconds: float = 1.0, prompt: str = "", drop: Any = None) -> Clip:
    """Return a decoded clip."""
    u = Utterance(id=text, audio="", text=text, seconds=seconds, language="en", prompt=prompt)
    return Clip(
        utterance=u, waveform=torch.zeros(0 if drop else round(16_000 * seconds)), drop=drop
    )


def line(*clips: Clip, with_timestamps: bool = False, with_prompt: bool = False) -> Sample:
    """Return a sample of clips."""
    draw = SampleSpec(tuple(range(len(clips))), NOW, NOW, is_last=True, frames=320)
    return Sample(
        clips=list(clips),
        spec=draw._replace(with_timestamps=with_timestamps, with_prompt=with_prompt),
    )


def collate(label_encoder: LabelEncoder, *lines: Sample) -> Batch:
    """Return the batch of some rows."""
    return PaddingCollator(label_encoder, LogMel(80))(list(lines))


def targets(batch: Batch, row: int = 0) -> list[int]:
    """Return a batch row's targets."""
    return [int(label) for label in batch.labels[row] if label != IGNORE_INDEX]


def test_timestamps_enclose_each_clips_text(label_encoder: LabelEncoder) -> None:
    batch = collate(label_encoder, line(said("one", 1.0), said("two", 0.5), with_timestamps=True))
    start, language, task, *rest = batch.decoder_input_ids[0].tolist()
    assert start == label_encoder.start_id
    one, two = label_encoder.encode_texts(["one", "two"], "en")
    zero, first, second = (label_encoder.timestamp_token(seconds) for seconds in (0.0, 1.0, 1.5))
    assert first - zero == 50
    assert targets(batch) == [
        language,
        task,
        zero,
        *one,
        first,
        first,
        *two,
        second,
        label_encoder.end_id,
    ]
    assert rest == targets(batch)[2:-1]
    assert sum(batch.tokens) == len(targets(batch))


def test_no_row_has_timestamps_by_default(label_encoder: LabelEncoder) -> None:
    batch = collate(label_encoder, line(said("one")))
    assert targets(batch) == label_encoder.encode("one", "en")[1:]


def test_what_cannot_be_decoded_has_no_time_of_its_own(label_encoder: LabelEncoder) -> None:
    batch = collate(
        label_encoder,
        line(said("one"), said("x", drop=object()), said("two"), with_timestamps=True),
    )
    one, two = label_encoder.encode_texts(["one", "two"], "en")
    times = [label_encoder.timestamp_token(seconds) for seconds in (0.0, 1.0, 1.0, 2.0)]
    ids = [times[0], *one, times[1], times[2], *two, times[3], label_encoder.end_id]
    assert targets(batch)[2:] == ids
    assert batch.tokens[1] == 0


def test_a_prompt_is_input_but_not_a_target(label_encoder: LabelEncoder) -> None:
    plain = collate(label_encoder, line(said("two", prompt="one")))
    prompted = collate(label_encoder, line(said("two", prompt="one"), with_prompt=True))
    assert targets(prompted) == targets(plain)
    assert prompted.tokens == plain.tokens
    before = prompted.decoder_input_ids[0].tolist()
    at = before.index(label_encoder.start_id)
    assert before[:at] == label_encoder.prompt_tokens("one", available=100)
    assert before[at:] == plain.decoder_input_ids[0].tolist()
    assert before[0] == label_encoder.vocabulary["<|startofprev|>"]
    assert (prompted.labels[0, :at] == IGNORE_INDEX).all()


def test_rows_with_and_without_a_prompt_share_a_batch(label_encoder: LabelEncoder) -> None:
    lines = [line(said("two", prompt="one three"), with_prompt=True), line(said("four four"))]
    both = collate(label_encoder, *lines)
    for number, each in enumerate(lines):
        assert targets(both, number) == targets(collate(label_encoder, each))


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 9, 40])
def test_no_label_is_longer_than_the_decoder(label_encoder: LabelEncoder, spare: int) -> None:
    most = len(label_encoder.encode("one two", "en")) + spare
    tight = LabelEncoder(
        label_encoder.tokenizer, max_tokens=most, multilingual=True, vocabulary_size=51_865
    )
    row = line(said("one two", prompt="three " * 50), with_timestamps=True, with_prompt=True)
    batch = collate(tight, row)
    assert batch.decoder_input_ids.shape[1] + 1 <= most
    assert len(targets(batch)) == most - spare - 1 + (spare >= 2)  # two times for <|notimestamps|>


def test_a_long_prompt_keeps_its_end(label_encoder: LabelEncoder) -> None:
    ids = label_encoder.prompt_tokens("one " * 400 + "two", available=448)
    assert len(ids) == 1 + PROMPT_TOKENS
    assert ids[-1] == label_encoder.prompt_tokens("two", available=448)[-1]
    assert label_encoder.prompt_tokens("one", available=1) == []


def test_a_slice_is_prompted_with_the_one_before_it(label_encoder: LabelEncoder) -> None:
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
    add_prompts(rows, label_encoder)
    assert [u.prompt for u in rows] == ["two", "", "one", "", "", ""]
    assert [u.prompt_tokens > 0 for u in rows] == [bool(u.prompt) for u in rows]


def test_shares_are_exact_and_drawn_again_in_each_epoch() -> None:
    rows = [
        Utterance(id=str(n), audio="", text="", seconds=2.0, tokens=9, prompt_tokens=n % 2)
        for n in range(400)
    ]
    config = DataConfig(timestamp_probability=0.3, prompt_probability=0.5, pad="bucket")
    plan = Plan.from_utterances(rows, config, seed=0)

    def drawn(epoch: int) -> dict[int, tuple[bool, bool]]:
        sampler = BucketedBatchSampler(
            plan, config, updates=len(plan.updates(epoch)), start=Position(epoch, 0)
        )
        return {d.clips[0]: (d.with_timestamps, d.with_prompt) for each in sampler for d in each}

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
    plan = Plan.from_utterances(rows, config, seed=0)
    for each in BucketedBatchSampler(plan, config, updates=len(plan.updates(0))):
        assert len(each) == 2  # of 9 + 2 + 21 tokens


def test_a_model_without_times_raises_an_input_error(
    tone_corpus: Path, blank_model: Path, tmp_path: Path
) -> None:
    small = load_whisper(str(blank_model)).labels()
    assert not small.has_timestamps
    config = DataConfig(corpus=(str(tone_corpus),), timestamp_probability=0.5, workers=0)
    message = r"data.timestamp_probability is 0.5, but .* has no timestamp tokens"
    with pytest.raises(InputError, match=message):
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
            spec=SampleSpec((0,), NOW, NOW, is_last=True, frames=256, with_prompt=bool(u.prompt)),
        )
        for u in manifest.train
    ]
    batch = PaddingCollator(whisper.labels(), LogMel(80))(lines)
    module = TrainingModule(whisper.model, freeze_encoder=False)
    summary = module(batch.features, batch.decoder_input_ids, batch.labels).sum()
    summary.backward()
    assert torch.isfinite(summary)
    # what was said before is heard: with another prompt, another loss
    others = [replace(c.utterance, prompt="four") for each in lines for c in each.clips]
    for each, u in zip(lines, others, strict=True):
        each.clips[0].utterance = u
    again = PaddingCollator(whisper.labels(), LogMel(80))(lines)
    assert module(again.features, again.decoder_input_ids, again.labels).sum() != summary
