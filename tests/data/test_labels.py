"""Target sequences: one start token, the prefix of the language, the text, the end token."""

from pathlib import Path

import pytest

from data.errors import InputError
from data.labels import LabelEncoder
from eval.whisper import load_whisper

TEXTS = ["one two", "", "零一二", 'He said "no" – naïve! 😀', "zero " * 50]


@pytest.fixture(scope="module")
def encoder(blank_model: Path) -> LabelEncoder:
    """Return the encoder of a model that knows en and zh."""
    return load_whisper(str(blank_model)).labels()


def english_only(encoder: LabelEncoder) -> LabelEncoder:
    """Return an encoder that has no language tokens to say."""
    return LabelEncoder(encoder.tokenizer, max_tokens=448, multilingual=False)


def test_a_sequence_has_one_start_token_and_ends_with_the_end_token(encoder: LabelEncoder) -> None:
    vocabulary = encoder.tokenizer.get_vocab()
    start, end = vocabulary["<|startoftranscript|>"], vocabulary["<|endoftext|>"]
    for text in TEXTS:
        ids = encoder.encode(text, "en")
        assert ids[0] == start
        assert ids.count(start) == 1
        assert ids[-1] == end
        assert ids.count(end) == 1


def test_the_prefix_says_language_and_task(encoder: LabelEncoder) -> None:
    names = encoder.tokenizer.convert_ids_to_tokens
    assert names(encoder.encode("one", "zh")[:4]) == [
        "<|startoftranscript|>",
        "<|zh|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    assert names(encoder.prefix("en", "translate"))[1:3] == ["<|en|>", "<|translate|>"]


def test_the_prefix_is_the_one_transformers_tokenizer_writes(encoder: LabelEncoder) -> None:
    encoder.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    for text in TEXTS:
        assert encoder.encode(text, "en") == encoder.tokenizer(text).input_ids


def test_an_english_only_prefix_has_no_language(encoder: LabelEncoder) -> None:
    ids = english_only(encoder).encode("one", "en")
    assert encoder.tokenizer.convert_ids_to_tokens(ids[:2]) == [
        "<|startoftranscript|>",
        "<|notimestamps|>",
    ]
    assert ids[2:] == encoder.encode("one", "en")[4:]


def test_texts_come_back_from_their_tokens(encoder: LabelEncoder) -> None:
    for text in TEXTS:
        ids = encoder.encode(text, "zh")
        assert encoder.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_counting_equals_encoding(encoder: LabelEncoder) -> None:
    languages = ["en", "zh", "zh", "en", "en"]
    for each in (encoder, english_only(encoder)):
        spoken = languages if each.multilingual else ["en"] * 5
        lengths = [len(each.encode(t, s)) for t, s in zip(TEXTS, spoken, strict=True)]
        assert each.count(TEXTS, spoken) == lengths


def test_counting_nothing_is_nothing(encoder: LabelEncoder) -> None:
    assert encoder.count([], []) == []


def test_an_unknown_language_is_a_sentence(encoder: LabelEncoder) -> None:
    for language in ("xx", "", "Chinese", "zh-TW"):
        with pytest.raises(
            InputError, match=r"set data.language to one of Whisper's codes"
        ) as told:
            encoder.encode("one", language)
        assert repr(language) in str(told.value)


def test_an_english_only_model_refuses_other_languages(encoder: LabelEncoder) -> None:
    with pytest.raises(InputError, match="'zh', but the model is English-only"):
        english_only(encoder).prefix("zh")


def test_a_start_token_in_the_text_never_gets_through(encoder: LabelEncoder) -> None:
    with pytest.raises(AssertionError):
        encoder.encode("one <|startoftranscript|> two", "en")
