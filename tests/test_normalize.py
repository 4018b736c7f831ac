"""What is compared, under a name that stands beside every figure."""

import pytest
import transformers

from eval.normalize import normalizer_for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  One,  two! ", "one two"),
        ("IT'S", "it s"),
        ("well-known", "well known"),
        ("(laughs) yes [music]", "yes"),
        ("...", ""),
        ("naïve café", "naïve café"),
        ("Straße ÄÖÜ", "straße äöü"),
        ("１２３", "123"),
        ("$5 & 10%", "5 10"),
        ("a\nb\tc", "a b c"),
        ("안녕, 하세요.", "안녕 하세요"),
    ],
)
def test_spaced_texts_lose_case_and_punctuation(text: str, expected: str) -> None:
    assert normalizer_for("basic", "en").apply(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("零一二。", "零一二"),
        ("你好，世界！", "你好世界"),
        ("我 有 ３ 個 Apple", "我有3個apple"),
        ("「他說」…", "他說"),
        ("　", ""),
    ],
)
@pytest.mark.parametrize("language", ["zh", "yue", "ja"])
def test_unspaced_texts_lose_their_spaces_too(text: str, expected: str, language: str) -> None:
    assert normalizer_for("basic", language).apply(text) == expected


def test_none_leaves_a_text_as_it_is() -> None:
    for language in ("en", "zh"):
        normalizer = normalizer_for("none", language)
        assert normalizer.name == "none"
        assert normalizer.apply(" He said: „No“  零 一. ") == "He said: „No“  零 一."


def test_the_name_says_what_was_done_and_by_which_version() -> None:
    name = normalizer_for("basic", "en").name
    assert name == f"whisper-basic (transformers {transformers.__version__})"
    assert normalizer_for("basic", "zh").name == f"{name}, no spaces"


def test_normalising_twice_is_normalising_once() -> None:
    for language in ("en", "zh", "th"):
        apply = normalizer_for("basic", language).apply
        for text in ("He said: 'no' (twice)!", "零 一，二", "A  b－c"):
            assert apply(apply(text)) == apply(text)
