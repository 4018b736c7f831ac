"""Signs of hallucination are counted relative to the reference, and increases give warnings."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.utterance import Utterance
from eval.metrics.hypothesis import Hypothesis
from eval.probes.hallucination import (
    HallucinationCounts,
    first_hallucination_counts,
    is_loop,
    is_too_fast,
    max_repeats,
)


def hypothesis(text: str, reference: str = "", *, seconds: float = 5.0, **more: Any) -> Hypothesis:
    """Return a hypothesis."""
    knobs = {"tokens": more.pop("tokens", 0), "truncated": more.pop("truncated", False)}
    u = Utterance(
        id=more.pop("id", "a"),
        audio="",
        text=reference,
        seconds=seconds,
        **{"language": "en", **more},
    )
    return Hypothesis(utterance=u, text=text, **knobs)


@pytest.mark.parametrize(
    ("text", "spaced", "times"),
    [
        ("", True, 0),
        ("one", True, 1),
        ("one two one two", True, 2),
        ("no no no", True, 3),
        ("No, no. NO - no!", True, 4),  # marks and case do not count
        ("a b c a b c a b c a b c", True, 4),
        ("say a b c a b c a b c a b c then", True, 4),
        ("a b c a b c a b c a b d", True, 3),
        ("we go there and we go here", True, 1),
        ("哈哈哈哈", False, 4),
        ("謝謝觀看謝謝觀看謝謝觀看謝謝觀看", False, 4),
        ("謝謝, 觀看。謝謝觀看", False, 2),
        ("謝謝觀看", False, 2),  # 謝謝
        ("hahahaha", True, 1),  # one word
        ("😀😀😀😀", False, 0),
        ("x\x00" * 4, False, 4),
        ("<b> <b> <b> <b>", True, 4),
        ("שלום " * 5, True, 5),
        ("ab" * 5_000, False, 5_000),
        (" ".join(map(str, range(41))) + " " + " ".join(map(str, range(41))), True, 1),
    ],
)
def test_consecutive_repeats_are_counted(text: str, spaced: bool, times: int) -> None:
    assert max_repeats(text, spaced=spaced) == times


@pytest.mark.parametrize(
    ("text", "reference", "language", "looped"),
    [
        ("thank you thank you thank you thank you", "thank you", "en", True),
        ("thank you thank you thank you", "thank you", "en", False),
        ("five five five five", "five five five five", "en", False),  # the reference repeats too
        ("five five five five five", "five five five five", "en", True),
        ("five five five", "five five five five", "en", False),
        ("謝謝觀看" * 4, "謝謝觀看", "zh", True),
        ("네 네 네 네", "네", "ko", True),  # Korean has spaces
        ("ha" * 60, "ha", "en", True),  # one word, but it compresses
        ("ha" * 60, "ha" * 60, "en", False),
        ("", "something", "en", False),
        ("x" * 10_000, "", "en", True),
    ],
)
def test_a_repetition_in_the_reference_is_not_a_loop(
    text: str, reference: str, language: str, looped: bool
) -> None:
    assert is_loop(hypothesis(text, reference, language=language)) is looped


def test_loops_of_a_translation_are_counted_in_words() -> None:
    h = hypothesis("thank you thank you thank you thank you", language="zh", task="translate")
    assert is_loop(h)


@pytest.mark.parametrize(
    ("tokens", "seconds", "reference", "too_fast"),
    [
        (25, 1.0, 0, False),
        (26, 1.0, 0, True),
        (26, 0.2, 0, True),  # a short clip counts as one second
        (20, 0.2, 0, False),
        (120, 5.0, 0, False),
        (130, 5.0, 0, True),
        (130, 5.0, 65, False),  # a script that takes many tokens
        (131, 5.0, 65, True),
    ],
)
def test_more_tokens_than_speech_has_are_too_fast(
    tokens: int, seconds: float, reference: int, too_fast: bool
) -> None:
    u = Utterance(id="a", audio="", text="", seconds=seconds, tokens=reference)
    assert is_too_fast(Hypothesis(utterance=u, text="", tokens=tokens)) is too_fast


LOOP = "so so so so"


def test_each_sign_is_counted_once_a_clip() -> None:
    heard = [
        hypothesis("one", "one"),
        hypothesis(LOOP, "one", tokens=200, truncated=True),
        hypothesis("", "one"),
        hypothesis("", "   "),
        hypothesis("", ""),
    ]
    meters = HallucinationCounts.of(
        heard,
        [hypothesis("you", id="white"), hypothesis("", id="silence"), hypothesis("ab", id="x")],
    )
    assert (meters.clips, meters.loops, meters.fast, meters.empty, meters.truncated) == (
        5,
        1,
        1,
        1,
        1,
    )
    told = meters.to_json()
    assert told["noise"] == {
        "clips": 3,
        "spoken": 2,
        "characters": 5,
        "texts": {"white": "you", "x": "ab"},
    }
    assert json.loads(json.dumps(told)) == told
    assert meters.metrics() == {
        "meters/loops": 0.2,
        "meters/fast": 0.2,
        "meters/empty": 0.2,
        "meters/truncated": 0.2,
        "meters/noise": pytest.approx(2 / 3),
        "meters/noise_characters": 5.0,
    }
    assert str(meters) == (
        "hallucinations: loops 1, too fast 1, empty 1, cut off 1 of 5 clips; "
        "text in 2 of 3 clips of silence and noise (5 characters)"
    )


def test_counts_of_an_empty_evaluation_are_zero() -> None:
    meters = HallucinationCounts.of([])
    assert meters.metrics() == {}
    assert meters.warnings(meters.to_json()) == []
    assert str(meters) == "hallucinations: loops 0, too fast 0, empty 0, cut off 0 of 0 clips"


def of(loops: int, clips: int) -> HallucinationCounts:
    """Return meters of so many clips, with so many loops."""
    return HallucinationCounts.of(
        [hypothesis(LOOP)] * loops + [hypothesis("one")] * (clips - loops)
    )


@pytest.mark.parametrize(
    ("first", "now", "warned"),
    [
        ((0, 100), (0, 100), False),
        ((0, 100), (2, 100), False),  # two clips are no alarm
        ((0, 100), (3, 100), True),
        ((3, 100), (3, 100), False),
        ((3, 100), (5, 100), False),
        ((3, 100), (6, 100), True),
        ((0, 1000), (10, 1000), False),  # one in a hundred is none
        ((0, 1000), (20, 1000), True),
        ((10, 1000), (1, 100), False),  # of a sample
        ((10, 1000), (4, 100), True),
        ((9, 10), (1, 10), False),
    ],
)
def test_an_increased_sign_gives_a_warning(
    first: tuple[int, int], now: tuple[int, int], warned: bool
) -> None:
    found = of(*now).warnings(of(*first).to_json())
    assert bool(found) is warned
    if warned:
        told = f"loops: {now[0]} of {now[1]} clips, {first[0]} of {first[1]} at first: the model"
        assert found[0].startswith(told)


def test_more_texts_for_noise_give_a_warning() -> None:
    quiet, loud = (
        [hypothesis("", id=str(n)) for n in range(12)],
        [hypothesis("you", id=str(n)) for n in range(12)],
    )
    before, after = (
        HallucinationCounts.of([hypothesis("one")], quiet),
        HallucinationCounts.of([hypothesis("one")], loud),
    )
    (told,) = after.warnings(before.to_json())
    assert told.startswith("noise: 12 of 12 clips, 0 of 12 at first: the model invents text")
    assert HallucinationCounts.of([hypothesis("one")]).warnings(before.to_json()) == []
    assert (
        after.warnings(HallucinationCounts.of([hypothesis("one")]).to_json()) == []
    )  # nobody knows how it was


def test_later_evaluations_are_compared_with_the_first(tmp_path: Path) -> None:
    assert first_hallucination_counts(tmp_path, "dev") is None
    for step, count in ((20, 2), (0, 1)):
        folder = tmp_path / f"step-{step:08d}" / "dev"
        folder.mkdir(parents=True)
        text = json.dumps({"meters": of(count, 9).to_json()})
        (folder / "scores.json").write_text(text, encoding="utf-8")
    first = first_hallucination_counts(tmp_path, "dev")
    assert first is not None
    assert first["loops"] == 1
    assert first_hallucination_counts(tmp_path, "test") is None
    assert of(1, 9).warnings(None) == []
