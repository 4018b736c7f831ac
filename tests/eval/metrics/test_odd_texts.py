"""Unusual texts are scored correctly and fast, and written to files unchanged."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import read_jsonl
from data.utterance import Utterance
from eval.evaluate import save
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score
from eval.metrics.wer import ErrorCounts

HTML = '<script>alert("x")</script> one & two</td>'
LANGUAGES = ("en", "zh", "ko", "he", "th", "")


def hypothesis(name: str, reference: str, text: str, **settings: Any) -> Hypothesis:
    """Return a hypothesis."""
    known = {"audio": f"/{name}.wav", "seconds": 2.0, "language": "de"}
    return Hypothesis(
        utterance=Utterance(id=name, text=reference, **{**known, **settings}), text=text
    )


def only(reference: str, text: str, **settings: Any) -> tuple[ErrorCounts, int]:
    """Return the main error counts of one utterance, and the number left out."""
    (group,) = score([hypothesis("a", reference, text, **settings)], "auto", 1.0).groups
    return group.error, group.empty


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reference", ["", " ", "...", "😀", "\0", "\u200e", "<b></b>", "(laughs)"])
def test_a_reference_without_words_is_left_out(reference: str, language: str) -> None:
    assert only(reference, "anything", language=language) == (ErrorCounts(), 1)


@pytest.mark.parametrize("text", ["", " ", "...", "😀", "\0", "<b></b>"])
def test_a_hypothesis_without_words_deletes_all(text: str) -> None:
    assert only("eins zwei", text) == (ErrorCounts(0, 2, 0, 2), 0)
    assert only("零一", text, language="zh") == (ErrorCounts(0, 2, 0, 2), 0)


@pytest.mark.parametrize(
    ("reference", "text", "language", "expected"),
    [
        ("eins 😀 zwei", "eins zwei 👍🏽", "de", ErrorCounts(0, 0, 0, 2)),
        ("שלום, עולם", "\u200fשלום\u200f עולם!", "he", ErrorCounts(0, 0, 0, 2)),
        ("مرحبا بالعالم", "مرحبا العالم", "ar", ErrorCounts(1, 0, 0, 2)),
        ("eins\0zwei", "eins zwei", "de", ErrorCounts(0, 0, 0, 2)),
        ("零\0一", "零一", "zh", ErrorCounts(0, 0, 0, 2)),
        (HTML, "alert one two", "de", ErrorCounts(0, 0, 0, 3)),
        ("a\nb\u2028c", "a b c", "de", ErrorCounts(0, 0, 0, 3)),
        ("eins \ufffd zwei", "eins zwei", "de", ErrorCounts(0, 0, 0, 2)),
    ],
)
def test_markup_and_emoji_are_not_counted(
    reference: str, text: str, language: str, expected: ErrorCounts
) -> None:
    assert only(reference, text, language=language) == (expected, 0)


@pytest.mark.parametrize("unit", ["word", "character", "mixed"])
@pytest.mark.parametrize("language", ["en", "zh", "ko"])
def test_a_hypothesis_of_10_000_characters_is_scored_fast(language: str, unit: str) -> None:
    loop = "so " * 3333 if language == "en" else "零一二" * 3333
    started = time.process_time()
    scores = score(
        [hypothesis("a", "one 零一 two" * 40, loop, language=language)], "auto", 1.0, unit
    )
    assert time.process_time() - started < 2
    assert scores.error >= 1


def test_two_texts_of_10_000_characters_are_scored_fast() -> None:
    started = time.process_time()
    assert only("零一二三" * 2500, "零二一三" * 2500, language="zh")[0].units == 10_000
    assert time.process_time() - started < 5


def everything() -> list[Hypothesis]:
    """Return odd texts of all kinds, in several languages."""
    odd = ["", "😀", "\0", HTML, "שלום", "零一 one", "\ufffd", "a\nb\u2028", "[/b] [red]", "\\"]
    return [
        hypothesis(f"{language}/{i}.{j}", reference, text, language=language)
        for language in LANGUAGES
        for i, reference in enumerate(odd)
        for j, text in enumerate(odd)
    ]


def test_files_contain_every_text_unchanged(tmp_path: Path) -> None:
    rows = everything()
    scores = score(rows, "auto", 1.0)
    save(tmp_path, scores, rows)
    read = list(read_jsonl(tmp_path / "utterances.jsonl"))
    assert [(row["id"], row["reference"], row["hypothesis"]) for row in read] == [
        (h.utterance.id, h.utterance.text, h.text) for h in rows
    ]
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["error"] > 0


@pytest.mark.parametrize("normalizer", ["basic", "english", "unicode", "none"])
@pytest.mark.parametrize("unit", ["auto", "mixed"])
def test_no_normalizer_fails_on_any_text(normalizer: str, unit: str) -> None:
    scores = score(everything(), normalizer, 1.0, unit)
    assert isinstance(scores, Scores)
    assert sum(group.clips + group.empty for group in scores.groups) == len(everything())


def test_a_duplicate_id_is_rejected() -> None:
    with pytest.raises(AssertionError, match="count twice"):
        score([hypothesis("a", "eins", "eins")] * 2, "auto", 1.0)


def test_thousands_of_utterances_are_scored_in_seconds() -> None:
    rows = [
        hypothesis(f"{n}", f"eins zwei drei {n}", f"eins zwo drei {n % 7}") for n in range(5_000)
    ]
    started = time.process_time()
    scores = score(rows, "auto", 1.0)
    assert time.process_time() - started < 10
    assert scores.interval is not None
