"""Target sequences: one start token, the prefix of the language, the text, the end token."""

from pathlib import Path

import pytest

from data.errors import InputError
from data.labels import LabelEncoder
from eval.whisper import load_whisper

TEXTS = ["one two", "", "零一二", 'He said "no" – naïve! 😀', "zero " * 50]


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


def english_only(label_encoder: LabelEncoder) -> LabelEncoder:
    """Return a LabelEncoder of an English-only model."""
    return LabelEncoder(label_encoder.tokenizer, max_tokens=448, multilingual=False)


def test_a_sequence_has_one_start_token_and_ends_with_the_end_token(
    label_encoder: LabelEncoder,
) -> None:
    vocabulary = label_encoder.tokenizer.get_vocab()
    start, end = vocabulary["<|startoftranscript|>"], vocabulary["<|endoftext|>"]
    for text in TEXTS:
        ids = label_encoder.encode(text, "en")
        assert ids[0] == start
        assert ids.count(start) == 1
        assert ids[-1] == end
        assert ids.count(end) == 1


def test_the_prefix_says_language_and_task(label_encoder: LabelEncoder) -> None:
    names = label_encoder.tokenizer.convert_ids_to_tokens
    assert names(label_encoder.encode("one", "zh")[:4]) == [
        "<|startoftranscript|>",
        "<|zh|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    assert names(label_encoder.prefix("en", "translate"))[1:3] == ["<|en|>", "<|translate|>"]


def test_the_prefix_is_the_one_transformers_tokenizer_writes(label_encoder: LabelEncoder) -> None:
    label_encoder.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    for text in TEXTS:
        assert label_encoder.encode(text, "en") == label_encoder.tokenizer(text).input_ids


def test_an_english_only_prefix_has_no_language(label_encoder: LabelEncoder) -> None:
    ids = english_only(label_encoder).encode("one", "en")
    assert label_encoder.tokenizer.convert_ids_to_tokens(ids[:2]) == [
        "<|startoftranscript|>",
        "<|notimestamps|>",
    ]
    assert ids[2:] == label_encoder.encode("one", "en")[4:]


def test_texts_come_back_from_their_tokens(label_encoder: LabelEncoder) -> None:
    for text in TEXTS:
        ids = label_encoder.encode(text, "zh")
        assert label_encoder.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_counting_equals_encoding(label_encoder: LabelEncoder) -> None:
    languages = ["en", "zh", "zh", "en", "en"]
    for each in (label_encoder, english_only(label_encoder)):
        spoken = languages if each.multilingual else ["en"] * 5
        lengths = [len(each.encode(t, s)) for t, s in zip(TEXTS, spoken, strict=True)]
        assert each.count_tokens(TEXTS, spoken) == lengths


def test_counting_nothing_is_nothing(label_encoder: LabelEncoder) -> None:
    assert label_encoder.count_tokens([], []) == []


def test_an_unknown_language_raises_an_input_error(label_encoder: LabelEncoder) -> None:
    for language in ("xx", "", "Chinese", "zh-TW"):
        with pytest.raises(
            InputError, match=r"set data.language to one of Whisper's codes"
        ) as error:
            label_encoder.encode("one", language)
        assert repr(language) in str(error.value)


def test_an_english_only_model_refuses_other_languages(label_encoder: LabelEncoder) -> None:
    with pytest.raises(InputError, match="'zh', but the model is English-only"):
        english_only(label_encoder).prefix("zh")


def test_a_start_token_in_the_text_never_gets_through(label_encoder: LabelEncoder) -> None:
    with pytest.raises(AssertionError):
        label_encoder.encode("one <|startoftranscript|> two", "en")
