"""LibriSpeech: chapters with their list of texts."""

from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora.librispeech import matches, read
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import librispeech, write, write_tone

CHAPTER = Path("LibriSpeech/train-clean-100/19/198")


def rows(corpus: Path, split: str = "train-clean-100") -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(), str(corpus), split))


def test_a_clip_has_its_speaker_and_a_text_in_lower_case(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    first = rows(corpus)[0]
    assert first == Utterance(
        id="LibriSpeech/19-198-0000",
        audio=str(tmp_path / CHAPTER / "19-198-0000.flac"),
        text="chapter one",
        language="en",
        speaker="19",
        rules=("upper case to lower case",),
    )
    assert rows(corpus / "LibriSpeech") == rows(corpus)


def test_a_text_in_upper_and_lower_case_stays(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    write(corpus / CHAPTER / "19-198.trans.txt", "19-198-0000 Chapter One, of BBC")
    assert (rows(corpus)[0].text, rows(corpus)[0].rules) == ("Chapter One, of BBC", ())


def test_other_formats_than_flac_are_found(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    write_tone(corpus / CHAPTER / "19-198-0000.wav")
    (corpus / CHAPTER / "19-198-0000.flac").unlink()
    assert rows(corpus)[0].audio.endswith("0000.wav")


def test_audio_without_a_text_has_a_fault_and_a_text_without_audio_is_missing(
    tmp_path: Path,
) -> None:
    corpus = librispeech(tmp_path)
    write_tone(corpus / CHAPTER / "19-198-0999.flac")
    (corpus / CHAPTER / "19-198-0000.flac").unlink()
    first, *_, last = rows(corpus)
    assert (first.fault, Path(first.audio).name) == ("", "19-198-0000.flac")
    assert (last.id, last.fault) == ("LibriSpeech/19-198-0999", "no transcript")


def test_a_chapter_without_its_list_has_faults_alone(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    (corpus / CHAPTER / "19-198.trans.txt").unlink()
    assert [u.fault for u in rows(corpus)] == ["no transcript"] * 6


def test_an_id_that_is_listed_twice_raises_an_input_error(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    write(corpus / CHAPTER / "19-198.trans.txt", "19-198-0000 ONE", "", "19-198-0000 TWO")
    with pytest.raises(InputError, match=r"trans\.txt, line 3: '19-198-0000' is listed twice"):
        rows(corpus)


def test_a_list_that_is_not_utf8_raises_an_input_error(tmp_path: Path) -> None:
    corpus = librispeech(tmp_path)
    (corpus / CHAPTER / "19-198.trans.txt").write_bytes("19-198-0000 NAÏVE".encode("latin-1"))
    with pytest.raises(InputError, match=r"19-198\.trans\.txt: not text in UTF-8:"):
        rows(corpus)


@pytest.mark.parametrize("name", ["train-clean-360", "dev-other", "dev-clean-2", "LibriSpeech/x"])
def test_it_is_known_by_the_names_of_its_splits(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)
    assert matches(tmp_path) == (name != "LibriSpeech/x")
