"""Traditional and simplified Chinese: folded scores, and outputs in the wrong script."""

from typing import Any

import pytest

from data.utterance import Utterance
from eval.metrics.chinese_script import fold, is_folded, wrong_script
from eval.metrics.hypothesis import Hypothesis, compare_texts
from eval.metrics.wer import ErrorCounts


def counts(
    reference: str, hypothesis: str, language: str = "zh", **knobs: Any
) -> dict[str, ErrorCounts]:
    """Return the counts of a pair of texts."""
    utterance = Utterance(id="a", audio="/a.wav", text=reference, seconds=2.0, language=language)
    return dict(
        compare_texts(Hypothesis(utterance=utterance, text=hypothesis), "auto", **knobs).counts
    )


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "臺灣 台灣 台湾", "台湾 台湾 台湾"),
        ("zh", "裡 裏 里", "里 里 里"),
        ("zh", "群羣 為爲为 線綫线 麵麪面", "群群 为为为 线线线 面面面"),
        ("zh", "看著 看着 著名", "看着 看着 著名"),
        ("zh", "乾隆 乾淨 干净", "乾隆 干净 干净"),
        ("zh", "軟體 网络 abc 123", "软体 网络 abc 123"),  # only the script changes, not the words
        ("yue", "衛衞卫 佢哋喺度", "卫卫卫 佢哋喺度"),
        ("zh", "", ""),
    ],
)
def test_both_scripts_fold_to_simplified(language: str, text: str, expected: str) -> None:
    assert fold(text, language) == expected
    assert fold(expected, language) == expected


def test_only_languages_of_two_scripts_are_folded() -> None:
    assert [is_folded(language) for language in ("zh", "yue", "ja", "ko", "en", "")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "wrong", "counted"),
    [
        ("晨霧", "晨霧", 0, 1),
        ("晨霧", "晨雾", 1, 1),
        ("晨雾", "晨霧", 1, 1),
        ("臺灣的晨霧", "臺灣的晨雾", 1, 1),  # partly
        ("台北", "台北", 0, 0),  # the same in both
        ("晨霧", "台北", 0, 0),
        ("晨霧", "", 0, 0),
        ("晨霧", "morning fog", 0, 0),
    ],
)
def test_wrong_script_counts_only_texts_whose_script_is_known(
    reference: str, hypothesis: str, wrong: int, counted: int
) -> None:
    assert wrong_script(reference, hypothesis, "zh") == ErrorCounts(wrong, 0, 0, counted)


def test_raw_and_folded_errors_are_both_counted() -> None:
    found = counts("臺灣的晨霧。", "台湾的晨雾")
    assert found["cer"] == ErrorCounts(3, 0, 0, 5)
    assert found["cer_folded"] == ErrorCounts(0, 0, 0, 5)
    assert found["wrong_script"] == ErrorCounts(1, 0, 0, 1)
    assert counts("臺灣的 fog", "台湾的 dog", unit="mixed")["mer_folded"] == ErrorCounts(1, 0, 0, 4)
    assert not {"cer_folded", "wrong_script"} & counts("東京", "東京", "ja").keys()
