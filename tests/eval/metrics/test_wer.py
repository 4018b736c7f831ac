"""Error counts are additive, and equal those of jiwer."""

import random

import jiwer
import pytest

from eval.metrics.wer import ErrorCounts, character_errors, word_errors


def texts(count: int, seed: int) -> list[str]:
    """Return sentences of one to eight words."""
    rng = random.Random(seed)
    words = ["zero", "one", "two", "three", "four", "five", "naïve", "零一"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(count)]


def test_rates_equal_jiwers_on_the_same_texts() -> None:
    references, hypotheses = texts(50, 0), [*texts(49, 1), ""]
    words, characters = (
        word_errors(references, hypotheses),
        character_errors(references, hypotheses),
    )
    assert words.rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))
    assert words.units == sum(len(text.split()) for text in references)
    assert characters.units == sum(map(len, references))


def test_the_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    references, hypotheses = texts(40, 2), texts(40, 3)
    for count in (word_errors, character_errors):
        parts = [count(references[i : i + 7], hypotheses[i : i + 7]) for i in range(0, 40, 7)]
        assert sum(parts, ErrorCounts()) == count(references, hypotheses)


def test_the_rate_of_a_sum_is_not_the_mean_of_rates() -> None:
    one, many = ErrorCounts(1, 0, 0, 1), ErrorCounts(0, 0, 0, 9)
    assert (one + many).rate == 0.1
    assert (one.rate + many.rate) / 2 == 0.5


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("one two three", "one two three", ErrorCounts(0, 0, 0, 3)),
        ("one two three", "one six three", ErrorCounts(1, 0, 0, 3)),
        ("one two three", "one three", ErrorCounts(0, 1, 0, 3)),
        ("one", "one two three", ErrorCounts(0, 0, 2, 1)),
        ("one two", "", ErrorCounts(0, 2, 0, 2)),
        ("零一二", "零一三", ErrorCounts(1, 0, 0, 1)),
    ],
)
def test_each_kind_of_edit_is_counted(
    reference: str, hypothesis: str, expected: ErrorCounts
) -> None:
    assert word_errors([reference], [hypothesis]) == expected


def test_characters_count_their_spaces() -> None:
    assert character_errors(["ab cd"], ["abcd"]) == ErrorCounts(0, 1, 0, 5)
    assert character_errors(["零一二"], ["零一三"]) == ErrorCounts(1, 0, 0, 3)


def test_a_rate_can_exceed_one_and_no_units_give_zero() -> None:
    assert word_errors(["one"], ["a b c"]).rate == 3.0
    for count in (word_errors, character_errors):
        assert count([], []) == ErrorCounts()
    assert ErrorCounts().rate == 0.0


def test_json_contains_counts_and_rate() -> None:
    assert ErrorCounts(1, 2, 3, 12).to_json() == {
        "rate": 0.5,
        "substitutions": 1,
        "deletions": 2,
        "insertions": 3,
        "units": 12,
    }
