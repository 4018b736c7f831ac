"""Collating clips: padded audio, shifted labels, no loss for clips that failed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import IGNORE_INDEX, Position
from data.batching.collate import Clip, PaddingCollator, Sample
from data.labels import LabelEncoder
from data.log_mel import HOP_LENGTH, LogMel
from data.sampling.bucketed_sampler import SampleSpec
from data.utterance import Drop, Utterance
from eval.whisper import load_whisper


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


def clip(frames: float, text: str = "one two", **settings: Any) -> Sample:
    """Return a sample of one clip of noise."""
    noise = 0.1 * torch.randn(round(frames * HOP_LENGTH), generator=torch.manual_seed(0))
    u = Utterance(
        id=text, audio="/a.mp3", text=text, language=settings.pop("language", "en"), seconds=1.0
    )
    spec = SampleSpec(
        (0,), Position(0, 6), Position(0, 7), True, frames=settings.pop("padded", 128)
    )
    return Sample(clips=[Clip(**{"utterance": u, "waveform": noise, **settings})], spec=spec)


def failed(frames: float, text: str = "one two") -> Sample:
    """Return a sample of a clip that could not be decoded."""
    drop = Drop(split="train", id=text, audio="/a.mp3", reason="truncated")
    return clip(frames, text, drop=drop, waveform=torch.zeros(round(frames * HOP_LENGTH)))


@pytest.mark.parametrize(
    ("longest", "frames", "expected"),
    [(1, 64, 64), (63.5, 64, 64), (10, 3000, 3000), (64.01, 64, 65), (3000.5, 3000, 3001)],
)
def test_audio_is_padded_to_the_planned_length_and_never_cut(
    longest: float, frames: int, expected: int, label_encoder: LabelEncoder
) -> None:
    clips = [clip(1, padded=frames), clip(longest, padded=frames)]
    batch = PaddingCollator(label_encoder, LogMel(128))(clips)
    assert batch.features.shape == (2, 128, expected)


def test_features_are_those_of_the_padded_waveform(label_encoder: LabelEncoder) -> None:
    mel = LogMel(80)
    one = clip(100.3)
    batch = PaddingCollator(label_encoder, mel)([one, clip(128)])
    padded = torch.zeros(1, 128 * HOP_LENGTH)
    padded[0, : len(one.waveform)] = one.waveform
    torch.testing.assert_close(batch.features[:1], mel(padded), atol=1e-5, rtol=0)


def test_labels_are_one_token_ahead_of_the_inputs(label_encoder: LabelEncoder) -> None:
    texts = {"one two three": "en", "": "en", "零一": "zh"}
    clips = [clip(10, text, language=language) for text, language in texts.items()]
    batch = PaddingCollator(label_encoder, LogMel(80))(clips)
    for row, (text, language) in enumerate(texts.items()):
        ids = label_encoder.encode(text, language)
        length = len(ids) - 1
        assert batch.decoder_input_ids[row, :length].tolist() == ids[:-1]
        assert batch.labels[row, :length].tolist() == ids[1:]
        assert batch.tokens[row] == length
    assert batch.decoder_input_ids.dtype == batch.labels.dtype == torch.int64
    assert batch.languages == ["en", "en", "zh"]


def test_padding_is_masked_by_length_and_the_end_token_is_learned(
    label_encoder: LabelEncoder,
) -> None:
    end = label_encoder.tokenizer.eos_token_id
    assert label_encoder.tokenizer.pad_token_id == end  # a mask by id would hide the end token too
    batch = PaddingCollator(label_encoder, LogMel(80))([clip(10, "one two three"), clip(10, "one")])
    for row, text in enumerate(("one two three", "one")):
        length = len(label_encoder.encode(text, "en")) - 1
        assert batch.labels[row, length - 1] == end
        assert (batch.labels[row, :length] != IGNORE_INDEX).all()
        assert (batch.labels[row, length:] == IGNORE_INDEX).all()
        assert (batch.decoder_input_ids[row, length:] == end).all()
    assert (batch.decoder_input_ids >= 0).all()


def test_a_failed_clip_has_no_weight_and_keeps_the_shape(label_encoder: LabelEncoder) -> None:
    collate = PaddingCollator(label_encoder, LogMel(80))
    sound = collate([clip(60), clip(128, "three four five")])
    batch = collate([clip(60), failed(128, "three four five")])
    assert batch.features.shape == sound.features.shape
    assert batch.labels.shape == sound.labels.shape
    assert (batch.labels[1] == IGNORE_INDEX).all()
    assert torch.equal(batch.labels[0], sound.labels[0])
    assert batch.seconds == [0.6, 0.0]
    assert batch.tokens == [sound.tokens[0], 0]
    assert [drop.id for drop in batch.drops] == ["three four five"]
    torch.testing.assert_close(batch.features[0], sound.features[0], atol=1e-5, rtol=0)
    assert batch.features.isfinite().all()


def test_a_forward_pass_of_silence_has_no_weight_and_no_drop(label_encoder: LabelEncoder) -> None:
    nobody = Sample(
        clips=[], spec=SampleSpec((), Position(2, 0), Position(2, 1), False, frames=128)
    )
    batch = PaddingCollator(label_encoder, LogMel(80))([nobody])
    assert batch.features.shape == (1, 80, 128)
    assert (batch.labels == IGNORE_INDEX).all()
    assert (batch.ids, batch.seconds, batch.tokens, batch.drops) == ([], [], [], [])
    assert (batch.next_position, batch.is_last) == (Position(2, 1), False)


@pytest.mark.parametrize(("length", "expected"), [(0, 5), (3, 5), (16, 16), (1000, 448)])
def test_labels_are_padded_to_a_given_length_that_the_model_has(
    length: int, expected: int, label_encoder: LabelEncoder
) -> None:
    rows = [clip(10), Sample(clips=[], spec=clip(10).spec)]  # the second one is silence
    (plain, padded) = (
        PaddingCollator(label_encoder, LogMel(80))(
            [Sample(clips=row.clips, spec=row.spec._replace(label_length=n)) for row in rows]
        )
        for n in (0, length)
    )
    own = plain.labels.shape[1]
    assert padded.labels.shape == padded.decoder_input_ids.shape == (2, max(expected, own))
    assert (padded.labels[:, :own] == plain.labels).all()
    assert (padded.labels[:, own:] == IGNORE_INDEX).all()
    assert (padded.labels[1] == IGNORE_INDEX).all()
    assert padded.tokens == plain.tokens


def joined(*lines: Sample) -> Sample:
    """Return a sample of all clips of some samples."""
    return Sample(clips=[each for line in lines for each in line.clips], spec=lines[0].spec)


@pytest.mark.parametrize(
    ("texts", "language", "text"),
    [(("one two", "three"), "en", "one two three"), (("零一", "二"), "zh", "零一二")],
)
def test_clips_in_one_window_are_joined_in_order(
    texts: tuple[str, str], language: str, text: str, label_encoder: LabelEncoder
) -> None:
    first, second = (clip(n, t, language=language) for n, t in zip((60, 33), texts, strict=True))
    batch = PaddingCollator(label_encoder, LogMel(80))([joined(first, second)])
    spoken = torch.cat([first.waveform, second.waveform, torch.zeros(35 * HOP_LENGTH)])
    torch.testing.assert_close(batch.features, LogMel(80)(spoken[None]), atol=1e-5, rtol=0)
    ids = batch.decoder_input_ids[0].tolist()
    assert label_encoder.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (ids[0], ids.count(label_encoder.start_id)) == (label_encoder.start_id, 1)
    assert batch.labels[0].tolist() == [*ids[1:], label_encoder.end_id]
    assert (batch.ids, batch.seconds) == (list(texts), [0.6, 0.33])
    assert sum(batch.tokens) == len(ids)
    assert min(batch.tokens) > 0


def test_a_clip_that_failed_is_left_out_of_its_windows_text(label_encoder: LabelEncoder) -> None:
    one, two, three = clip(20, "one"), failed(30, "two"), clip(40, "three")
    batch = PaddingCollator(label_encoder, LogMel(80))([joined(one, two, three)])
    ids = batch.decoder_input_ids[0].tolist()
    assert label_encoder.tokenizer.decode(ids, skip_special_tokens=True) == "one three"
    assert batch.seconds == [0.2, 0.0, 0.4]
    assert batch.tokens[1] == 0
    assert sum(batch.tokens) == int((batch.labels != IGNORE_INDEX).sum())
    nothing = PaddingCollator(label_encoder, LogMel(80))([joined(two, failed(30, "three"))])
    assert (nothing.labels == IGNORE_INDEX).all()
    assert (
        nothing.labels.shape
        == PaddingCollator(label_encoder, LogMel(80))(
            [joined(clip(30, "two"), clip(30, "three"))]
        ).labels.shape
    )


def test_a_batch_says_where_training_continues(label_encoder: LabelEncoder) -> None:
    batch = PaddingCollator(label_encoder, LogMel(80))(
        [clip(10, decode_seconds=0.25), clip(20, decode_seconds=0.5)]
    )
    assert (batch.next_position, batch.is_last) == (Position(0, 7), True)
    assert 0.75 in batch.worker_seconds.values()  # of decoding
    assert all(seconds > 0 for seconds in batch.worker_seconds.values())
