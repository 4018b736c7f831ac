"""Scripts, letters and damage of texts."""

import pytest

from data.writing_systems import is_damaged, plain_text, script_of


@pytest.mark.parametrize(
    ("text", "language", "script"),
    [
        ("Hello, 世界!", "en", "Latin"),
        ("Привет", "ru", "Cyrillic"),
        ("안녕 hi", "ko", "Hangul"),
        ("สวัสดี", "th", "Thai"),
        ("東京タワーへ行く", "ja", "Kana"),
        ("東京タワ", "ja", "Han"),  # as often as Katakana: the first of both
        ("發展", "zh", "Han, traditional"),
        ("发展", "zh", "Han, simplified"),
        ("發展发展", "zh", "Han, mixed"),
        ("人口", "zh", "Han, either"),
        ("發展", None, "Han, traditional"),
        ("国会", "ja", "Han"),  # no simplified Chinese
        ("12 … !", "en", ""),
        ("", "en", ""),
    ],
)
def test_a_text_is_of_the_script_of_most_of_its_letters(
    text: str, language: str | None, script: str
) -> None:
    assert script_of(text, language) == script


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's HERE, now!", "its here now"),
        ("你好，世界。", "你好 世界"),
        ("Ｈｅｌｌｏ", "hello"),
        ("Straße", "STRASSE"),
        ("“quoted” — twice", "quoted twice"),
    ],
)
def test_case_width_spaces_and_punctuation_are_not_in_a_plain_text(one: str, other: str) -> None:
    assert plain_text(one) == plain_text(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("한국", "한군"), ("काम", "कम"), ("é", "e"), ("1", "2")]
)
def test_letters_marks_and_numbers_are_in_a_plain_text(one: str, other: str) -> None:
    assert plain_text(one) != plain_text(other)


def test_a_text_without_letters_is_plainly_nothing() -> None:
    assert plain_text(" … ?! —") == ""


@pytest.mark.parametrize(
    "text", ["o\ufffdne", "a\x1b[31m", "a\0", "cafÃ©", "don’t".encode().decode("cp1252"), "\ue000"]
)
def test_damage_is_seen(text: str) -> None:
    assert is_damaged(text)


@pytest.mark.parametrize(
    "text", ["one", "café", "naïve Ã", "你好", "한국어", "emoji 🎉", "“quotes” …", "Ärger"]
)
def test_what_is_only_unusual_is_no_damage(text: str) -> None:
    assert not is_damaged(text)
