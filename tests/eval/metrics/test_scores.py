"""Scores by language, corpus and length, and their JSON files."""

import json
from dataclasses import replace
from typing import Any

import pytest

from data.utterance import Utterance
from eval.metrics.scores import Hypothesis, Scores, compare_texts, saved_groups, score
from eval.metrics.wer import ErrorCounts


def hypothesis(name: str, reference: str, text: str, **settings: Any) -> Hypothesis:
    """Return a hypothesis of an utterance of 2 s."""
    known = {"audio": f"/{name}.mp3", "seconds": 2.0, "language": "en"}
    return Hypothesis(
        utterance=Utterance(id=name, text=reference, **{**known, **settings}), text=text
    )


@pytest.fixture
def scores() -> Scores:
    """Return the scores of a few clips in two languages."""
    found = [
        hypothesis("a", "One two.", "one two"),
        hypothesis("b", "three four", "three five six"),
        hypothesis("c", "...", "anything at all"),
        hypothesis("d", "零一二。", "零一 三", language="zh"),
        hypothesis("e", "seven", "eight", seconds=30.5),
    ]
    return score(found, "basic", 4.0)


def test_clips_are_counted_by_language(scores: Scores) -> None:
    english, mandarin = scores.groups
    assert (english.language, english.clips, english.metric) == ("en", 2, "WER")
    assert (mandarin.language, mandarin.clips, mandarin.metric) == ("zh", 1, "CER")
    assert english.error == english.counts("wer") == ErrorCounts(1, 0, 1, 4)
    assert mandarin.error == mandarin.counts("cer") == ErrorCounts(1, 0, 0, 3)


def test_orthographic_errors_are_counted_too(scores: Scores) -> None:
    english, mandarin = scores.groups
    assert english.counts("wer_ortho") == ErrorCounts(3, 0, 1, 4)
    assert mandarin.counts("cer_ortho").edits == 2
    assert mandarin.counts("cer_ortho").units == 4


def test_empty_references_are_left_out_and_counted(scores: Scores) -> None:
    assert [group.empty for group in scores.groups] == [1, 0]
    alone = score([hypothesis("a", "!", "one"), hypothesis("b", "", "")], "basic", 1.0)
    assert (alone.groups[0].clips, alone.groups[0].empty, alone.error) == (0, 2, 0.0)
    told = alone.to_json()["languages"]["en"]  # a report looks for these
    for figure in ("wer", "cer", "wer_ortho", "cer_ortho"):
        assert (told[figure]["rate"], told[figure]["interval"]) == (0.0, None)
    assert alone.groups[0].summary() == "WER 0.00 % normalised, 0.00 % orthographic"


def test_clips_over_30_s_are_scored_apart(scores: Scores) -> None:
    (long,) = scores.long
    assert (long.clips, long.error) == (1, ErrorCounts(1, 0, 0, 1))
    edge = score([hypothesis("a", "one", "one", seconds=30.0)], "basic", 1.0)
    assert (len(edge.groups), len(edge.long)) == (1, 0)


def test_the_error_pools_all_edits_over_all_units_of_short_clips(scores: Scores) -> None:
    assert scores.error == 3 / 7
    assert score([], "basic", 0.0).error == 0.0


def test_clips_of_unknown_language_are_scored() -> None:
    scores = score([hypothesis("a", "one", "two", language=None)], "basic", 1.0)
    assert sum(group.clips for group in scores.groups) == 1


def test_a_duplicate_utterance_is_rejected() -> None:
    with pytest.raises(AssertionError, match="count twice"):
        score([hypothesis("a", "one", "one"), hypothesis("a", "one", "one")], "basic", 1.0)


def test_without_a_normalizer_both_metrics_are_equal() -> None:
    (group,) = score([hypothesis("a", "One two.", "one two")], "none", 1.0).groups
    assert group.normalizer == "none"
    assert group.counts("wer") == group.counts("wer_ortho") == ErrorCounts(2, 0, 0, 2)


def test_saved_rates_can_be_recomputed_from_saved_counts(scores: Scores) -> None:
    told = json.loads(json.dumps(scores.to_json()))
    assert told["error"] == scores.error
    assert told["languages"]["en"]["wer"] == {
        "rate": 0.5,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 1,
        "units": 4,
        "interval": told["languages"]["en"]["wer"]["interval"],
        "bootstrap": "utterances",
    }
    assert told["languages"]["en"]["empty_references"] == 1
    assert "whisper-basic" in told["languages"]["zh"]["normalizer"]
    assert told["long"]["en"]["clips"] == 1
    assert (told["seconds"], told["audio_seconds"], told["clips_per_second"]) == (4.0, 38.5, 1.25)


def test_metrics_have_slash_names_and_are_fractions(scores: Scores) -> None:
    metrics = scores.metrics()
    assert metrics["error"] == scores.error
    assert metrics["en/wer"] == 0.5
    assert metrics["zh/cer"] == pytest.approx(1 / 3)
    assert metrics["en/long_wer"] == 1.0
    assert all(isinstance(value, float) for value in metrics.values())


def row(hypothesis: Hypothesis, normalizer: str = "auto", unit: str = "auto") -> dict[str, Any]:
    """Return an utterance's row of utterances.jsonl."""
    return hypothesis.to_json(compare_texts(hypothesis, normalizer, unit))


def test_a_row_contains_speaker_texts_and_edits() -> None:
    english = hypothesis("a", "One two.", "one too", speaker="kim", age="teens", start=1.5, end=3.5)
    assert row(replace(english, tokens=3, truncated=True)) == {
        "id": "a",
        "corpus": "",
        "language": "en",
        "task": "transcribe",
        "speaker": "kim",
        "age": "teens",
        "gender": None,
        "accent": None,
        "seconds": 2.0,
        "audio": "/a.mp3",
        "start": 1.5,
        "end": 3.5,
        "reference": "One two.",
        "hypothesis": "one too",
        "reference_normalized": "12",
        "hypothesis_normalized": "one too",
        "unit": "word",
        "edits": 2,
        "units": 1,
        "tokens": 3,
        "truncated": True,
    }
    assert row(hypothesis("b", "零一", "零", language="zh"))["edits"] == 1


def test_a_row_without_a_reference_has_no_edits_and_is_listed_all_the_same() -> None:
    for said in ("", "...", "(laughs)"):
        told = row(hypothesis("a", said, "anything"))
        assert (told["edits"], told["units"], told["hypothesis"]) == (None, 0, "anything")


def test_the_rows_of_an_evaluation_add_up_to_its_figures(scores: Scores) -> None:
    counts = [c.counts[c.metric] for c in scores.compared.values() if c.counts]
    together = [group.error for group in scores.groups + scores.long]
    assert sum(counts, ErrorCounts()) == sum(together, ErrorCounts())


def test_korean_is_scored_in_characters_with_and_without_spaces_and_in_words() -> None:
    (group,) = score(
        [hypothesis("a", "안녕 하세요.", "안녕하세오", language="ko")], "auto", 1.0
    ).groups
    assert (group.metric, group.unit) == ("CER", "character")
    assert group.normalizer.endswith("no spaces")
    assert group.error == group.counts("cer") == ErrorCounts(1, 0, 0, 5)
    assert group.figures["cer_spaces"] == ErrorCounts(1, 1, 0, 6)
    assert group.counts("wer") == ErrorCounts(1, 1, 0, 2)
    assert "CER with spaces 33.33 %" in group.summary()
    assert group.shown_metrics() == ["cer", "wer", "cer_spaces"]


def test_mixed_units_are_used_on_request() -> None:
    said, text = "我有three個apple。", "我有 tree 個 apple"
    (group,) = score([hypothesis("a", said, text, language="zh")], "auto", 1.0, "mixed").groups
    assert (group.metric, group.error) == ("MER", ErrorCounts(1, 0, 0, 5))
    assert group.method == f"words and characters, {group.normalizer}"
    assert "no spaces" not in group.normalizer


def test_a_translation_is_scored_as_english() -> None:
    found = [
        hypothesis("a", "It's colour.", "it is color", language="zh", task="translate"),
        hypothesis("b", "零一", "零一", language="zh"),
    ]
    chinese, english = score(found, "auto", 1.0).groups
    assert (chinese.language, chinese.metric) == ("zh", "CER")
    assert (english.language, english.metric) == ("zh-en", "WER")
    assert english.error == ErrorCounts(0, 0, 0, 3)


def test_every_metric_has_an_interval_and_names_what_was_resampled() -> None:
    rows = [
        hypothesis(f"{n}", "one two", "one two" if n % 3 else "one", speaker=f"{n}")
        for n in range(30)
    ]
    scores = score(rows, "basic", 1.0)
    told = scores.to_json()
    for figure in ("wer", "cer", "wer_ortho", "cer_ortho"):
        saved = told["languages"]["en"][figure]
        low, high = saved["interval"]
        assert low < saved["rate"] < high
        assert saved["bootstrap"] == "speakers"
    assert told["interval"] == told["languages"]["en"]["wer"]["interval"]
    assert scores.groups[0].formatted("wer").startswith("16.67 % (")
    alone = score(rows[:1], "basic", 1.0).to_json()
    assert (alone["interval"], alone["languages"]["en"]["wer"]["interval"]) == (None, None)


def test_speakers_of_one_name_in_two_corpora_are_two() -> None:
    rows = [
        hypothesis(f"{n}", "one", "one", speaker=f"{n % 5}", corpus=f"/{n % 2}") for n in range(40)
    ]
    (group,) = score(rows, "basic", 1.0).groups
    assert group.intervals["wer"].drawn == "speakers"  # ten of them


def test_the_summary_contains_orthographic_and_script_errors(scores: Scores) -> None:
    english, mandarin = scores.groups
    assert english.summary().startswith("WER 50.00 % (0.0 to 100.0) normalised, 100.00 % (")
    assert english.summary().endswith(" orthographic")
    assert "folded CER 33.33 %" in mandarin.summary()
    assert english.method == f"words, {english.normalizer}"
    assert mandarin.shown_metrics() == ["cer", "cer_folded"]


def test_each_of_several_corpora_has_its_own_scores(scores: Scores) -> None:
    assert scores.corpora == {}
    found = score(
        [
            hypothesis("a", "one two", "one two", corpus="/here/prompts/en"),
            hypothesis("b", "three four", "three five", corpus="/here/joined/en"),
            hypothesis("c", "零一", "零一", corpus="/here/joined/en", language="zh"),
        ],
        "basic",
        1.0,
    )
    told = {name: group.error.rate for name, group in found.named_groups()}
    assert told["en, prompts/en"] == 0.0
    assert told["en, joined/en"] == 0.5
    assert told["zh, joined/en"] == 0.0
    assert found.groups[0].error.units == 4  # in all
    saved = found.to_json()
    assert [name for name, _ in saved_groups(saved)] == [name for name, _ in found.named_groups()]
    assert saved["corpora"]["joined/en"]["en"]["wer"]["rate"] == 0.5
    assert found.metrics()["joined/en/en/wer"] == 0.5


def test_corpora_of_one_language_each_are_not_repeated() -> None:
    found = score(
        [
            hypothesis("a", "one two", "one two", corpus="/here/en"),
            hypothesis("c", "零一", "零一", corpus="/here/zh-TW", language="zh"),
        ],
        "basic",
        1.0,
    )
    assert found.corpora == {}
    assert [name for name, _ in found.named_groups()] == ["en", "zh"]


def test_corpora_with_the_same_folder_name_are_kept_apart() -> None:
    found = score(
        [
            hypothesis("a", "one two", "one two", corpus="/old/clips/en"),
            hypothesis("b", "one two", "one", corpus="/new/clips/en"),
        ],
        "basic",
        1.0,
    )
    assert {name: groups[0].error.rate for name, groups in found.corpora.items()} == {
        "old/clips/en": 0.0,
        "new/clips/en": 0.5,
    }
