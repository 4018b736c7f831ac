"""Comparison of two models on the same utterances."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.errors import InputError
from data.utterance import Utterance
from eval.evaluate import save
from eval.metrics.compare import ALL, compare, read_hypotheses
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import score
from eval.report.console_tables import difference_table, verdicts


def hypothesis(number: int, found: str, **settings: Any) -> Hypothesis:
    """Return a hypothesis of one of many utterances."""
    known = {"text": "one two six", "audio": f"/{number}.wav", "seconds": 2.0, "language": "de"}
    return Hypothesis(utterance=Utterance(id=f"{number}", **{**known, **settings}), text=found)


def model(wrong: int, count: int = 100) -> list[Hypothesis]:
    """Return the hypotheses of a model with one wrong word in some utterances."""
    return [hypothesis(n, "one two" if n < wrong else "One, two, six.") for n in range(count)]


def test_a_better_model_is_better_and_worse_if_swapped() -> None:
    (found,) = compare(model(60), model(20), "auto")
    assert (found.name, found.metric, found.clips) == ("de", "WER", 100)
    assert (found.difference.better, found.difference.worse, found.difference.equal) == (40, 0, 60)
    assert found.difference.verdict.startswith("B is better: -13.3 points (-")
    (back,) = compare(model(20), model(60), "auto")
    assert back.difference.verdict.startswith("B is worse: +13.3 points (+")


def test_a_model_compared_with_itself_shows_no_difference() -> None:
    (found,) = compare(model(50), model(50), "auto")
    assert found.difference.verdict.startswith("no difference can be shown: +0.0 points")
    (close,) = compare(model(50), [*model(49)[:-1], hypothesis(99, "one")], "auto")
    assert close.difference.verdict.startswith("no difference can be shown")


def test_order_does_not_matter_and_unshared_utterances_are_left_out() -> None:
    first, second = model(60), model(20)
    assert compare(first, second[::-1], "auto") == compare(first, second, "auto")
    (found,) = compare(first[:70], second[10:], "auto")
    assert found.clips == 60


def test_languages_and_long_audio_are_compared_apart_and_together() -> None:
    def both(text: str) -> list[Hypothesis]:
        more = {"language": "zh", "text": "零一"}
        long = {"seconds": 31.0}
        return [
            *(hypothesis(n, "one two six") for n in range(5)),
            *(hypothesis(n, text, **more) for n in range(5, 10)),
            *(hypothesis(n, text, **long) for n in range(10, 13)),
        ]

    found = {each.name: each for each in compare(both("零"), both("零一"), "auto")}
    assert list(found) == ["de", "zh", "de, over 30 s", ALL]
    assert (found["de"].metric, found["zh"].metric, found[ALL].metric) == ("WER", "CER", "error")
    assert found["zh"].difference.change == -0.5
    assert found[ALL].clips == 10
    assert found[ALL].difference.change == -5 / 25
    assert len(verdicts(list(found.values()))) == 4


def test_empty_references_are_left_out() -> None:
    empty = hypothesis(1, "anything", text="...")
    (found,) = compare([hypothesis(0, "one"), empty], [hypothesis(0, "one two"), empty], "auto")
    assert found.clips == 1
    with pytest.raises(InputError, match="have no utterance with a reference in common"):
        compare([empty], [empty], "auto")


def test_no_shared_utterance_or_two_references_are_rejected() -> None:
    with pytest.raises(InputError, match="have no utterance with a reference in common"):
        compare([hypothesis(0, "one")], [hypothesis(1, "one")], "auto")
    with pytest.raises(InputError, match="0: A was scored against 'one' in 'de', B against 'two'"):
        compare([hypothesis(0, "", text="one")], [hypothesis(0, "", text="two")], "auto")
    with pytest.raises(InputError, match="in 'en'"):
        compare([hypothesis(0, "")], [hypothesis(0, "", language="en")], "auto")


def test_saved_evaluations_compare_like_the_originals(tmp_path: Path) -> None:
    models = {"a": model(60), "b": model(20)}
    for name, rows in models.items():
        save(tmp_path / name, score(rows, "none", 1.0), rows)
    read = [read_hypotheses(tmp_path / name) for name in models]
    assert compare(*read, "auto") == compare(*models.values(), "auto")


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    old = {"id": "a", "language": "en", "seconds": 2.0, "reference": "One.", "hypothesis": "one"}
    write(tmp_path, old | {"edits": 1, "audio": "/a.wav"})
    ((found),) = read_hypotheses(tmp_path)
    assert (found.utterance.text, found.text, found.utterance.speaker) == ("One.", "one", None)


def write(folder: Path, *rows: Any) -> Path:
    """Write utterances.jsonl; a text stands for itself."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "utterances.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["{"], "not written by an evaluation .*; score the model again"),
        (["[1]"], "not written by an evaluation"),
        ([{"id": "a", "reference": "one"}], "not written by an evaluation .*hypothesis"),
        ([{"id": "a", "reference": "o", "hypothesis": "o", "language": "en"}] * 2, "'a' is listed"),
    ],
)
def test_an_invalid_file_is_an_input_error(rows: list[Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told) as error:
        read_hypotheses(write(tmp_path, *rows))
    assert str(tmp_path) in str(error.value)


def test_a_folder_without_the_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"utterances\.jsonl: no such file; name two folders"):
        read_hypotheses(tmp_path)


def test_the_table_shows_rates_shares_and_normalizer() -> None:
    found = compare(model(60), model(20), "auto")
    console = Console(width=120)
    with console.capture() as shown:
        console.print(difference_table(found, ("old", "new")))
    text = shown.get()
    for told in ("A: old", "20.00 %", "6.67 %", "40 %, 0 %, 60 %", "unicode 1"):
        assert told in text
    told = found[0].to_json()
    assert told["a_interval"][0] < 0.2 < told["a_interval"][1]
    assert told["b_interval"][0] < 1 / 15 < told["b_interval"][1]
    (sentence,) = verdicts(found)
    assert sentence.endswith("; B has the lower WER in 100.0 % of the bootstrap samples")
