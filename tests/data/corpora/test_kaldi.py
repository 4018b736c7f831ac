"""Kaldi's data directories: any file may be listed, and no command is run."""

from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora.kaldi import read
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import kaldi, write, write_tone


def rows(corpus: Path, split: str = "train") -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(), str(corpus), split))


def whole(folder: Path, path: str = "/audio/a.wav") -> Path:
    """Write a data directory of one recording."""
    write(folder / "wav.scp", f"a {path}")
    write(folder / "text", "a one two")
    return folder


def test_segments_are_slices_with_speakers(tmp_path: Path) -> None:
    found = rows(kaldi(tmp_path))
    assert found[2] == Utterance(
        id="data/ann-2",
        audio=str(tmp_path / "audio" / "long.wav"),
        text="is surprised",
        seconds=1.0,
        speaker="ann",
        start=2.0,
        end=3.0,
    )


def test_without_segments_an_utterance_is_a_recording(tmp_path: Path) -> None:
    first, second = rows(kaldi(tmp_path), "dev")
    assert (first.id, first.speaker, first.seconds, first.end) == ("data/bob-0", "bob", 1.0, None)
    assert second.audio == str(tmp_path / "audio" / "bob-1.flac")


def test_lengths_come_from_where_they_are_said(tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    assert rows(corpus)[0].seconds == 0
    write(corpus / "reco2dur", "a 5.5")
    assert rows(corpus)[0].seconds == 5.5
    write(corpus / "utt2dur", "a 5.25")
    assert rows(corpus)[0].seconds == 5.25


def test_an_end_of_minus_one_is_the_end_of_the_recording(tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    write(corpus / "segments", "a a 1.5 -1")
    write(corpus / "reco2dur", "a 5.0")
    (u,) = rows(corpus)
    assert (u.start, u.end, u.seconds) == (1.5, None, 3.5)


def test_one_data_directory_is_train_or_the_split_of_its_name(tmp_path: Path) -> None:
    corpus = whole(tmp_path / "test")
    assert len(rows(corpus)) == len(rows(corpus, "test")) == 1
    with pytest.raises(InputError, match=r"dev/wav\.scp: no such file; splits of .*: train"):
        rows(corpus, "dev")


def test_a_relative_path_starts_where_the_program_does_or_beside_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = whole(tmp_path / "data", "audio/a.wav")
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    started, beside = (tmp_path / name / "audio" / "a.wav" for name in ("started", "data"))
    assert rows(corpus)[0].audio == str(started)  # which is missing
    write_tone(beside)
    assert rows(corpus)[0].audio == str(beside)
    write_tone(started)
    assert rows(corpus)[0].audio == str(started)


@pytest.mark.parametrize("path", ["sox a.wav -t wav - |", "cat a.wav |", "| tee b.wav"])
def test_a_command_is_refused_and_not_run(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wav\.scp: a is a command .* are never run: write its"):
        rows(whole(tmp_path, path))


@pytest.mark.parametrize("path", ["raw.ark:1234", "/x/raw.ark:12[0:3]", ""])
def test_what_is_no_file_of_its_own_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wav\.scp: a is '.*', which is not an audio file"):
        rows(whole(tmp_path, path))


def test_what_is_on_one_list_alone_has_a_fault(tmp_path: Path) -> None:
    corpus = kaldi(tmp_path)
    write(corpus / "train" / "text", "ann-0 one", "ann-9 two")
    write(corpus / "train" / "segments", "ann-0 rec1 0 1", "ann-1 rec1 1 2", "ann-2 rec2 0 1")
    faults = {u.id: u.fault for u in rows(corpus)}
    assert faults == {
        "data/ann-0": "",
        "data/ann-1": "no transcript",
        "data/ann-2": "no transcript",
        "data/ann-9": "not in wav.scp",
    }


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a a 0", "segments: a: expected RECORDING START END, got 'a 0'"),
        ("a a 0 1 2", "segments: a: expected RECORDING START END"),
        ("a a x 1", "segments: a: start must be a number of seconds, got 'x'"),
        ("a a 0 inf", "segments: a: end must be a number of seconds, 0 or more, got 'inf'"),
        ("a a 2 2", r"segments: a: end is 2\.0 and start 2\.0: end must be later"),
    ],
)
def test_a_wrong_segment_raises_an_input_error(row: str, sentence: str, tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    write(corpus / "segments", row)
    with pytest.raises(InputError, match=sentence):
        rows(corpus)


def test_a_length_that_is_no_number_raises_an_input_error(tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    write(corpus / "utt2dur", "a long")
    with pytest.raises(InputError, match="utt2dur: a must be a number of seconds, got 'long'"):
        rows(corpus)


@pytest.mark.parametrize("name", ["text", "wav.scp"])
def test_a_key_that_is_listed_twice_raises_an_input_error(name: str, tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    write(corpus / name, "a /x.wav", "a /y.wav")
    with pytest.raises(InputError, match=f"{name}, line 2: 'a' is listed twice"):
        rows(corpus)


def test_no_texts_raise_an_input_error(tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    (corpus / "text").unlink()
    with pytest.raises(InputError, match="text: No such file or directory, but"):
        rows(corpus)


def test_texts_that_are_not_utf8_raise_an_input_error(tmp_path: Path) -> None:
    corpus = whole(tmp_path)
    (corpus / "text").write_bytes("a 네".encode("cp949"))
    with pytest.raises(InputError, match="text: not text in UTF-8: convert it to UTF-8"):
        rows(corpus)
