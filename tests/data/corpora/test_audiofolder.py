"""Hugging Face's audiofolder: audio files next to a table of metadata."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.corpora.audiofolder import read
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import audiofolder, write


def rows(corpus: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(**knobs), str(corpus), split))


def table(folder: Path, *names: str) -> Path:
    """Write a metadata.jsonl that lists files."""
    write(folder / "metadata.jsonl", *(json.dumps({"file_name": n, "text": n}) for n in names))
    return folder


def test_a_row_has_a_text_and_may_have_more(tmp_path: Path) -> None:
    corpus = audiofolder(tmp_path / "mine")
    assert rows(corpus)[0] == Utterance(
        id="mine/train/clips/0.ogg",
        audio=str(tmp_path / "mine" / "train" / "clips" / "0.ogg"),
        text='one, "two"',
        language="en",
        speaker="ann",
    )
    assert (rows(corpus, "dev")[1].text, rows(corpus, "dev")[1].speaker) == ("one", None)


def test_a_knob_names_the_column_of_texts(tmp_path: Path) -> None:
    corpus = audiofolder(tmp_path)
    assert rows(corpus, text_column="age")[0].text == "30"
    with pytest.raises(
        InputError, match=r"metadata\.csv: no column txt of texts; .* one of \['age', 'file_name'"
    ):
        rows(corpus, text_column="txt")


def test_one_table_above_folders_of_splits_holds_them_all(tmp_path: Path) -> None:
    corpus = table(tmp_path, "train/a.wav", "test/b.wav", "c.wav")
    assert [u.text for u in rows(corpus)] == ["train/a.wav", "c.wav"]
    assert [u.text for u in rows(corpus, "test")] == ["test/b.wav"]
    with pytest.raises(InputError, match="no rows of split dev; its splits: test, train"):
        rows(corpus, "dev")


def test_one_table_without_splits_is_train(tmp_path: Path) -> None:
    corpus = table(tmp_path, "ann/a.wav", "bob/b.wav")
    assert len(rows(corpus)) == 2
    with pytest.raises(InputError, match="no rows of split test; its splits: train"):
        rows(corpus, "test")


def test_an_empty_table_is_an_empty_split(tmp_path: Path) -> None:
    assert rows(table(tmp_path)) == []


def test_a_split_without_a_table_raises_an_input_error(tmp_path: Path) -> None:
    corpus = audiofolder(tmp_path)
    (corpus / "train" / "metadata.csv").unlink()
    with pytest.raises(
        InputError, match=r"train: has no metadata\.csv nor metadata\.jsonl; splits of .*: dev"
    ):
        rows(corpus)


@pytest.mark.parametrize("row", ['{"text": "one"}', "[1]", '"a.wav"'])
def test_a_row_without_a_file_raises_an_input_error(row: str, tmp_path: Path) -> None:
    write(tmp_path / "metadata.jsonl", row)
    with pytest.raises(InputError, match=r"metadata\.jsonl, line 1: no file_name"):
        rows(tmp_path)


def test_a_cell_too_many_raises_an_input_error_and_no_shorter_text(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "file_name,text", "a.wav,one, two")
    with pytest.raises(InputError, match=r"metadata\.csv, line 2: more cells than columns"):
        rows(tmp_path)


def test_a_table_that_is_not_utf8_raises_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes("file_name,text\na.wav,naïve\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"metadata\.csv: cannot be read as csv: 'utf-8' codec"):
        rows(tmp_path)


def test_a_file_that_is_listed_twice_is_yielded_twice_and_counted_later(tmp_path: Path) -> None:
    assert len({u.id for u in rows(table(tmp_path, "a.wav", "a.wav"))}) == 1
    assert len(rows(tmp_path)) == 2


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="paths in a corpus must stay in it"):
        rows(table(tmp_path, "../a.wav"))
