"""Errors are counted in the units of a language, or of both languages of a mixed text."""

import pytest

from data.labels import UNSPACED
from eval.metrics.units import split_units, unit_of
from eval.metrics.wer import ErrorCounts, count_errors


def test_errors_are_counted_in_characters_where_words_have_no_spaces() -> None:
    assert {"zh", "yue", "ja", "th", "lo", "my", "km"} == UNSPACED
    assert {unit_of(language) for language in (*UNSPACED, "ko")} == {"character"}
    assert {unit_of(language) for language in ("en", "de", "vi", "hi", "")} == {"word"}


def test_a_requested_unit_applies_to_all_languages() -> None:
    for unit in ("word", "character", "mixed"):
        assert {unit_of(language, unit) for language in ("en", "zh", "ko")} == {unit}


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("one two", "word", ["one", "two"]),
        ("  one\ttwo\n", "word", ["one", "two"]),
        ("我 有", "character", ["我", " ", "有"]),
        (" ab ", "character", ["a", "b"]),
        ("", "word", []),
        ("", "character", []),
        ("", "mixed", []),
        ("one two", "mixed", ["one", "two"]),
        ("我有three個apple", "mixed", ["我", "有", "three", "個", "apple"]),
        ("我 有 three 個", "mixed", ["我", "有", "three", "個"]),
        ("カタカナとひらがな ok", "mixed", [*"カタカナとひらがな", "ok"]),
        ("コーヒー", "mixed", [*"コーヒー"]),
        ("ใช้ app นี้", "mixed", [*"ใช้", "app", *"นี้"]),
        ("ຂ້ອຍ my អក្សរ မြန်", "mixed", [*"ຂ້ອຍ", "my", *"អក្សរ", *"မြန်"]),
        ("나는 coffee 좋아", "mixed", ["나는", "coffee", "좋아"]),
        ("naïve 你", "mixed", ["naïve", "你"]),
        ("我有3個", "mixed", ["我", "有", "3", "個"]),
    ],
)
def test_a_text_is_split_into_its_units(text: str, unit: str, expected: list[str]) -> None:
    assert list(split_units(text, unit)) == expected


def test_mixed_units_of_a_text_in_one_script_are_its_own() -> None:
    english = ("one two three", "one too three four")
    assert count_errors(*english, "mixed") == count_errors(*english, "word")
    mandarin = ("零一二三", "零一四")
    assert count_errors(*mandarin, "mixed") == count_errors(*mandarin, "character")


def test_a_wrong_word_in_a_foreign_sentence_is_one_error() -> None:
    said, heard = "我要買coffee和tea", "我要賣coffee和T恤"
    assert count_errors(said, heard, "mixed") == ErrorCounts(2, 0, 1, 6)
    assert count_errors(said, heard, "word") == ErrorCounts(1, 0, 0, 1)
