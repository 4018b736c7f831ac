"""Normalizers remove what is not spoken, and have names with versions."""

import unicodedata

import pytest
import transformers

from eval.metrics.normalize import normalizer_for

PLAIN = [
    ("", ""),
    ("  One,  two! ", "one two"),
    ("IT'S", "it s"),
    ("well-known", "well known"),
    ("(laughs) yes [music]", "yes"),
    ("<b>no</b> <i>tags", "no tags"),
    ("...", ""),
    ("naïve café", "naïve café"),
    ("Straße ÄÖÜ", "straße äöü"),
    ("１２３ ＡＢｃ", "123 abc"),
    ("$5 & 10%", "5 10"),
    ("a\nb\tc", "a b c"),
    ("안녕, 하세요.", "안녕 하세요"),
    ("¿Qué? ¡No!", "qué no"),
    ("l'homme", "l homme"),
    ("1️⃣ ok 👍🏽", "1 ok"),
]


@pytest.mark.parametrize(("text", "expected"), PLAIN)
@pytest.mark.parametrize("kind", ["basic", "unicode"])
def test_spaced_texts_lose_case_and_punctuation(kind: str, text: str, expected: str) -> None:
    assert normalizer_for(kind, "de").apply(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "basic", "expected"),
    [
        ("hi", "नमस्ते, दुनिया!", "नमस त द न य", "नमस्ते दुनिया"),
        ("ta", "வணக்கம்.", "வணக கம", "வணக்கம்"),
        ("bn", "বাংলা ভাষা", "ব ল ভ ষ", "বাংলা ভাষা"),
        ("dv", "ދިވެހި", "ދ ވ ހ", "ދިވެހި"),
        ("th", "สวัสดี ครับ", "สวสดครบ", "สวัสดีครับ"),
        ("my", "မြန်မာ", "မနမ", "မြန်မာ"),
        ("km", "ភាសាខ្មែរ", "ភសខមរ", "ភាសាខ្មែរ"),
        ("he", "שָׁלוֹם", "ש לו ם", "שָׁלוֹם"),
        ("ar", "مَرحَبًا", "م رح ب ا", "مَرحَبًا"),
        ("tr", "İstanbul'da", "i stanbul da", "istanbul da"),
        ("vi", "Tiê\u0301ng Việt", "tiếng việt", "tiếng việt"),
        ("yo", "Yorùbá ẹ̀kọ́", "yorùbá ẹ kọ", "yorùbá ẹ̀kọ́"),
    ],
)
def test_unicode_keeps_combining_marks_and_basic_removes_them(
    language: str, text: str, basic: str, expected: str
) -> None:
    assert normalizer_for("basic", language).apply(text) == basic
    assert normalizer_for("unicode", language).apply(text) == expected
    assert normalizer_for("auto", language).apply(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("می\u200cخواهم", "میخواهم"),  # no joiner in Persian
        ("\u200fשלום\u200e, עולם", "שלום עולם"),  # directions
        ("co\u00adoperate", "cooperate"),  # a hyphen for line breaks
        ("\ufeffone\u200btwo", "onetwo"),  # no width
        ("one\0two", "one two"),  # a crash's trace
        ("❤️ ok", "ok"),  # a selector of forms
        ("👨‍👩‍👧 ok", "ok"),  # joined emoji
        ("☎︎", ""),
    ],
)
def test_invisible_characters_are_removed(text: str, expected: str) -> None:
    assert normalizer_for("unicode", "fa").apply(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("零一二。", "零一二"),
        ("你好，世界！", "你好世界"),
        ("我 有 ３ 個 Ａpple", "我有3個apple"),
        ("「他說」…", "他說"),
        ("ｱｲｳ ㈱", "アイウ株"),
        ("　", ""),
    ],
)
@pytest.mark.parametrize("language", ["zh", "yue", "ja"])
@pytest.mark.parametrize("kind", ["basic", "unicode", "auto"])
def test_unspaced_texts_lose_their_spaces_and_widths_too(
    kind: str, text: str, expected: str, language: str
) -> None:
    assert normalizer_for(kind, language).apply(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let's go!", "let us go"),
        ("he's like", "he is like"),
        ("she's been like", "she has been like"),
        ("I'd've won't can't", "i would have will not can not"),
        ("10km", "10 km"),
        ("10mm", "10 mm"),
        ("RC232", "rc 232"),
        (
            "Mr. Park visited Assoc. Prof. Kim Jr.",
            "mister park visited associate professor kim junior",
        ),
        ("mobilisation colour", "mobilization color"),
        ("two hundred and forty two", "242"),
        ("one oh one", "101"),
        ("twenty-first century", "21st century"),
        ("nineteen sixties", "1960s"),
        ("twenty five hundred", "2500"),
        ("two point five percent", "2.5%"),
        ("$20 million", "$20000000"),
        ("3,000.50 dollars", "$3000.50"),
        ("Um, yes, hmm", "yes"),
        ("(laughs) naïve [music]", "naive"),
        ("wait... what", "wait what"),
        ("...", ""),
        ("", ""),
    ],
)
def test_english_spelling_and_numbers_are_unified(text: str, expected: str) -> None:
    assert normalizer_for("english", "en").apply(text) == expected
    assert normalizer_for("auto", "en").apply(text) == expected


def test_auto_is_english_for_english_and_unicode_else() -> None:
    assert normalizer_for("auto", "en").name == normalizer_for("english", "en").name
    for language in ("de", "zh", "th", "ko", ""):
        assert normalizer_for("auto", language).name == normalizer_for("unicode", language).name


def test_spaces_are_kept_if_words_are_counted() -> None:
    assert normalizer_for("basic", "zh", "mixed").apply("我 有 big apple。") == "我 有 big apple"
    assert normalizer_for("unicode", "zh", "word").apply("我 有") == "我 有"
    assert normalizer_for("unicode", "ko").apply("안녕 하세요") == "안녕하세요"
    assert normalizer_for("unicode", "ko", "word").apply("안녕 하세요") == "안녕 하세요"
    assert normalizer_for("unicode", "en", "character").apply("One two") == "one two"


def test_none_does_not_change_a_text() -> None:
    for language in ("en", "zh"):
        normalizer = normalizer_for("none", language)
        assert normalizer.name == "none"
        assert normalizer.apply(" He said: „No“  零 一. ") == "He said: „No“  零 一."


def test_names_contain_kind_and_version() -> None:
    name = normalizer_for("basic", "en").name
    assert name == f"whisper-basic (transformers {transformers.__version__})"
    assert normalizer_for("basic", "zh").name == f"{name}, no spaces"
    unicode = f"unicode 1 (Unicode {unicodedata.unidata_version})"
    assert normalizer_for("auto", "hi").name == unicode
    assert normalizer_for("auto", "th").name == f"{unicode}, no spaces"
    assert normalizer_for("auto", "en").name.startswith("whisper-english (whisper-normalizer 0.")


@pytest.mark.parametrize("kind", ["basic", "unicode"])
def test_normalization_is_idempotent(kind: str) -> None:
    for language in ("en", "zh", "th", "hi", "tr"):
        apply = normalizer_for(kind, language).apply
        for text in ("He said: 'no' (twice)!", "零 一，二", "A  b－c", "नमस्ते", "İI", "ำ ｶﾞ ㎏"):
            assert apply(apply(text)) == apply(text)
