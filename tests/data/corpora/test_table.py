"""Manifests in JSON Lines and CSV, one row per utterance."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.corpora.table import read
from data.errors import InputError
from data.utterance import Utterance

CORRECT = {"path": "a.wav", "text": "one"}


def jsonl(folder: Path, *rows: Any, name: str = "train.jsonl") -> Path:
    """Write rows; a text stands for itself."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rows(corpus: Path, split: str = "train") -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(), str(corpus), split))


def refused(corpus: Path, sentence: str) -> str:
    """Expect a refusal, and return it."""
    with pytest.raises(InputError, match=sentence) as error:
        rows(corpus)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_row_needs_path_and_text_and_may_have_more(tmp_path: Path) -> None:
    full = {
        "id": 7,
        "path": "deep/a.wav",
        "text": " one ",
        "start": 1.5,
        "end": "4",
        "language": "en",
        "speaker": "ann",
        "age": 42,
        "gender": "female",
        "accent": "Kent",
        "split": "train",
    }
    first, second = rows(jsonl(tmp_path, CORRECT, "", {**full, "seconds": 9}))
    assert first == Utterance(id=first.id, audio=str(tmp_path / "a.wav"), text="one")
    assert first.id.endswith("a.wav")
    assert second == Utterance(
        id="7",
        audio=str(tmp_path / "deep" / "a.wav"),
        text="one",
        seconds=2.5,
        language="en",
        speaker="ann",
        age="42",
        gender="female",
        accent="Kent",
        start=1.5,
        end=4.0,
    )


def test_a_csv_says_the_same_as_json_lines(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "\ufeffpath,text,start,end,seconds,language\n"
        'a.wav,"one, ""two""",,,1.25,en\n'
        "b.wav,three,0.5,1,,\n",
        encoding="utf-8",
    )
    jsonl(
        tmp_path,
        {"path": "a.wav", "text": 'one, "two"', "seconds": 1.25, "language": "en"},
        {"path": "b.wav", "text": "three", "start": 0.5, "end": 1},
        name="other.jsonl",
    )
    assert rows(tmp_path) == rows(tmp_path, "other")


def test_a_file_with_a_split_column_holds_several_splits(tmp_path: Path) -> None:
    parts = [{**CORRECT, "path": f"{n}.wav", "split": s} for n, s in enumerate(("train", "dev"))]
    file = jsonl(tmp_path, *parts, name="all.jsonl") / "all.jsonl"
    assert [Path(u.audio).name for u in rows(file, "dev")] == ["1.wav"]
    with pytest.raises(InputError, match="no row has split 'test'; its splits: dev, train"):
        rows(file, "test")


def test_slices_of_one_file_are_utterances_of_their_own(tmp_path: Path) -> None:
    parts = [
        {**CORRECT, "start": s, "end": e} for s, e in ((0, 5), (5, 10), (0, 10), (9999.17, 1e5))
    ]
    found = rows(jsonl(tmp_path, *parts, {**CORRECT, "start": 5}, {**CORRECT, "start": 9999.19}))
    assert len({u.id for u in found}) == 6
    assert len({u.audio for u in found}) == 1


def test_a_start_and_a_length_are_a_slice(tmp_path: Path) -> None:
    (u,) = rows(jsonl(tmp_path, {**CORRECT, "start": 5, "seconds": 3}))
    assert (u.start, u.end, u.seconds) == (5.0, 8.0, 3.0)  # else it would run to the file's end


def test_a_text_of_null_is_empty_and_not_the_word_none(tmp_path: Path) -> None:
    first, second = rows(jsonl(tmp_path, {"path": "a.wav", "text": None}, {"path": "b.wav"}))
    assert (first.text, second.text) == ("", "")
    assert rows(jsonl(tmp_path, {**CORRECT, "id": None}))[0].id.endswith("a.wav")


def test_a_number_as_speaker_or_language_is_a_text(tmp_path: Path) -> None:
    (u,) = rows(jsonl(tmp_path, {**CORRECT, "speaker": 7, "language": 8}))
    assert (u.speaker, u.language) == ("7", "8")  # 8 is refused later, as no language


def test_an_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    summary = refused(jsonl(tmp_path, CORRECT, {**CORRECT, "txt": "x"}), "unknown key 'txt'")
    assert "train.jsonl, line 2" in summary
    assert "known keys: accent, age, end, gender, id, language, path" in summary


def test_a_missing_path_is_named_with_its_line(tmp_path: Path) -> None:
    summary = refused(jsonl(tmp_path, {"text": "one"}), "no 'path'; each row needs path and text")
    assert "line 1" in summary


@pytest.mark.parametrize("key", ["start", "end", "seconds"])
@pytest.mark.parametrize("value", ["soon", [1], "1,5"])
def test_a_wrong_number_is_named_with_its_line(key: str, value: Any, tmp_path: Path) -> None:
    corpus = jsonl(tmp_path, {**CORRECT, key: value})
    summary = refused(corpus, f"line 1: {key} must be a number of seconds, got ")
    assert repr(value) in summary


@pytest.mark.parametrize("row", [{"seconds": "nan"}, {"seconds": -1}, {"start": -1}])
def test_a_number_that_is_no_time_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    refused(jsonl(tmp_path, {**CORRECT, **row}), f"line 1: {next(iter(row))}")


def test_an_end_before_its_start_is_refused(tmp_path: Path) -> None:
    for end in (1, 2):
        refused(jsonl(tmp_path, {**CORRECT, "start": 2, "end": end}), "end must be later")


@pytest.mark.parametrize("row", ["[1]", '"a.wav"', "5", "null", "true"])
def test_a_row_that_is_no_object_is_refused(row: str, tmp_path: Path) -> None:
    refused(jsonl(tmp_path, CORRECT, row), "line 2: expected an object with path and text")


def test_what_is_no_json_is_refused_with_its_line(tmp_path: Path) -> None:
    corpus = jsonl(tmp_path, CORRECT, CORRECT, '{"path": ')
    assert "line 3" in refused(corpus, "cannot be read as jsonl")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path, "cannot be read as jsonl: .*utf-8")
    (tmp_path / "train.csv").write_text("path,text\na.wav," + "x" * 200_000)
    (tmp_path / "train.jsonl").unlink()
    refused(tmp_path, "cannot be read as csv: line 1: field larger")


@pytest.mark.parametrize("row", ['a.wav,"one', 'a.wav,"one\nb.wav,"two"', 'a.wav,"say "no""'])
def test_a_stray_quote_is_refused_and_swallows_no_rows(row: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"path,text\n{row}\nc.wav,three\n")
    told = refused(tmp_path, r"train\.csv: cannot be read as csv: line [1-4]: ")
    assert "a quote within a quoted cell must be doubled" in told


def test_bytes_that_are_no_text_damage_their_row_alone(tmp_path: Path) -> None:
    damaged = [{**CORRECT, "text": text} for text in ("a\0b", "half \ud83d")]
    jsonl(tmp_path, *damaged, '{"path": "a\0.wav", "text": "one"}', CORRECT)
    assert [u.text for u in rows(tmp_path)] == ["a\ufffdb", "half \ufffd", "one", "one"]
    assert [Path(u.audio).name for u in rows(tmp_path)] == [*["a.wav"] * 2, "a\ufffd.wav", "a.wav"]
    (tmp_path / "dev.csv").write_text("path,text\na.wav,a\0b\nb.wav,two\n")
    assert [u.text for u in rows(tmp_path, "dev")] == ["a\ufffdb", "two"]


def test_a_cell_too_many_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,text\na.wav,one, two\n")
    refused(tmp_path, "line 2: unknown key")


def test_a_file_without_splits_must_be_named_after_its_own(tmp_path: Path) -> None:
    file = jsonl(tmp_path, CORRECT, name="all.jsonl") / "all.jsonl"
    refused(file, "has no column 'split' and is not named train")
    assert len(rows(file, "all")) == 1


def test_a_missing_split_says_what_was_found(tmp_path: Path) -> None:
    jsonl(tmp_path, CORRECT, name="dev.jsonl")
    refused(tmp_path, r"train\.jsonl: no such file, nor \.csv; found: dev\.jsonl")
    refused(tmp_path / "no", "found: no such folder")


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    refused(jsonl(tmp_path, {**CORRECT, "path": "../a.wav"}), "paths in a corpus must stay in it")
