"""AISHELL-1: one list of transcripts for all splits, and audio in folders of speakers."""

from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora.aishell import read
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import aishell, write_tone

TABLE = Path("data_aishell/transcript/aishell_transcript_v0.8.txt")


def rows(corpus: Path, split: str = "train") -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(), str(corpus), split))


def append(corpus: Path, line: str) -> None:
    """Add a line to the transcripts."""
    with (corpus / TABLE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def test_a_clip_has_its_speaker_and_a_text_without_spaces(tmp_path: Path) -> None:
    first, _, third, *_ = rows(aishell(tmp_path / "A"))
    assert first == Utterance(
        id="A/BAC009S0002W0122",
        audio=str(tmp_path / "A/data_aishell/wav/train/S0002/BAC009S0002W0122.wav"),
        text="而对楼市成交",
        language="zh",
        speaker="S0002",
        rules=("spaces between words removed",),
    )
    assert third.text == "限购atm"
    assert third.rules == ("full-width letters folded", "spaces between words removed")


def test_the_folder_and_the_one_above_are_the_same_corpus(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    above, itself = rows(corpus), rows(corpus / "data_aishell")
    assert [(u.audio, u.text) for u in above] == [(u.audio, u.text) for u in itself]


def test_a_wav_without_a_transcript_has_a_fault(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    write_tone(corpus / "data_aishell/wav/train/S0002/BAC009S0002W0999.wav")
    assert [u.id for u in rows(corpus) if u.fault == "no transcript"] == [
        f"{tmp_path.name}/BAC009S0002W0999"
    ]
    assert len(rows(corpus)) == 7


def test_a_transcript_without_a_wav_is_yielded_where_its_speaker_is(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    append(corpus, "BAC009S0724W0999 一")
    append(corpus, "BAC009S0555W0001 二")  # a speaker who was not unpacked
    append(corpus, "nobody 三")
    (gone,) = [u for u in rows(corpus, "dev") if not Path(u.audio).exists()]
    assert gone.audio.endswith("/wav/dev/S0724/BAC009S0724W0999.wav")
    lost = [u.text for u in rows(corpus) if not Path(u.audio).exists() and not u.fault]
    assert lost == ["二", "三"]


def test_no_list_of_transcripts_raises_an_input_error(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    (corpus / TABLE).unlink()
    with pytest.raises(InputError, match=r"_v0\.8\.txt: No such file .* unpack the corpus again"):
        rows(corpus)


def test_a_list_that_is_not_utf8_raises_an_input_error(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    text = (corpus / TABLE).read_text(encoding="utf-8")
    (corpus / TABLE).write_bytes(text.encode("gb18030"))
    with pytest.raises(InputError, match=r"_v0\.8\.txt: not text in UTF-8"):
        rows(corpus)


def test_an_id_that_is_listed_twice_raises_an_input_error(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    append(corpus, "BAC009S0002W0122 别 的")
    with pytest.raises(InputError, match="line 9: 'BAC009S0002W0122' is listed twice"):
        rows(corpus)


def test_packed_archives_of_speakers_raise_an_input_error(tmp_path: Path) -> None:
    corpus = aishell(tmp_path)
    (corpus / "data_aishell" / "wav").rename(corpus / "elsewhere")
    (corpus / "data_aishell" / "wav").mkdir()
    (corpus / "data_aishell" / "wav" / "S0002.tar.gz").touch()
    with pytest.raises(InputError, match="has only archives, one per speaker"):
        rows(corpus)
