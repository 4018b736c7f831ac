"""FLEURS: tables without a header, audio in archives that are compressed or unpacked."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.audio.decode import AudioError, declared_seconds, decode
from data.config import DataConfig
from data.corpora import fleurs, read
from data.errors import InputError
from data.utterance import Utterance

WriteClip = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture(params=["packed", "unpacked"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, write_clip: WriteClip) -> Path:
    """Return Korean: a sentence that two speakers read, and another, of 1, 2 and 3 s."""
    folder = tmp_path / "data" / "ko_kr"
    audio = folder / "audio" / "train"
    table = []
    for number, text in enumerate(['"첫" 문장.', '"첫" 문장.', "Two."]):
        write_clip(audio / f"{number}{number}.wav", number + 1.0)
        cells = [str(min(1, number)), f"{number}{number}.wav", text, text.lower(), "| |"]
        table.append("\t".join([*cells, str(16_000 * (number + 1)), "FEMALE"]))
    (folder / "train.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    if request.param == "packed":
        pack(audio)
    return folder


def pack(audio: Path) -> Path:
    """Pack a folder of audio into an archive, as on the Hub."""
    archive = audio.with_name(f"{audio.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(audio, audio.name)
    for path in audio.iterdir():
        path.unlink()
    audio.rmdir()
    return archive


def rows(folder: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(corpus=(str(folder),), **knobs), split))


def test_rows_have_texts_as_written_and_lengths(corpus: Path) -> None:
    found = rows(corpus)
    assert [u.text for u in found] == ['"첫" 문장.', '"첫" 문장.', "Two."]
    assert [u.seconds for u in found] == [1.0, 2.0, 3.0]
    assert {(u.language, u.speaker, u.gender) for u in found} == {("ko", None, "female")}
    assert [declared_seconds(u.audio) for u in found] == [1.0, 2.0, 3.0]


def test_a_sentence_read_by_several_speakers_is_several_clips(corpus: Path) -> None:
    assert [u.id for u in rows(corpus)] == ["ko_kr/00.wav", "ko_kr/11.wav", "ko_kr/22.wav"]


def test_the_normalised_text_is_there_for_those_who_ask(corpus: Path) -> None:
    assert rows(corpus, text_column="transcription")[2].text == "two."
    assert rows(corpus, text_column="raw_transcription")[2].text == "Two."
    with pytest.raises(
        InputError, match=r"data.text_column is 'sentence'; FLEURS has auto, raw_tr"
    ):
        rows(corpus, text_column="sentence")


def test_packed_audio_sounds_as_unpacked(tmp_path: Path, write_clip: WriteClip) -> None:
    folder = tmp_path / "en_us"
    clip = write_clip(folder / "audio" / "train" / "a.wav", 2.0)
    (folder / "train.tsv").write_text("1\ta.wav\tA\ta\ta\t32000\tMALE\n")
    expected, _ = decode(str(clip))
    assert torch.equal(decode(rows(folder)[0].audio)[0], expected)
    pack(clip.parent)
    assert rows(folder)[0].audio.startswith("tar:")
    assert torch.equal(decode(rows(folder)[0].audio)[0], expected)


@pytest.mark.parametrize(
    ("folder", "language"),
    [
        ("en_us", "en"),
        ("cmn_hans_cn", "zh"),
        ("yue_hant_hk", "yue"),
        ("es_419", "es"),
        ("fil_ph", "tl"),
        ("nb_no", "no"),
        ("jv_id", "jw"),
        ("mine", None),
    ],
)
def test_the_folder_says_the_language(folder: str, language: str | None, tmp_path: Path) -> None:
    (tmp_path / folder / "audio" / "dev").mkdir(parents=True)
    (tmp_path / folder / "dev.tsv").write_text("1\ta.wav\tA\ta\ta\t16000\tMALE\n")
    assert rows(tmp_path / folder, "dev")[0].language == language


def test_a_folder_is_reported_from_one_of_common_voice(corpus: Path, tone_corpus: Path) -> None:
    assert fleurs.matches(corpus)
    assert not fleurs.matches(tone_corpus)


def test_a_file_that_is_not_there_is_missing(corpus: Path) -> None:
    table = (corpus / "train.tsv").read_text(encoding="utf-8")
    (corpus / "train.tsv").write_text(table.replace("11.wav", "12.wav"), encoding="utf-8")
    with pytest.raises(AudioError, match="missing"):
        declared_seconds(rows(corpus)[1].audio)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../../../etc/passwd"])
def test_a_name_that_climbs_out_leads_nowhere(name: str, corpus: Path) -> None:
    table = (corpus / "train.tsv").read_text(encoding="utf-8")
    (corpus / "train.tsv").write_text(table.replace("11.wav", name), encoding="utf-8")
    with pytest.raises((AudioError, InputError), match=r"missing|must stay in it"):
        declared_seconds(rows(corpus)[1].audio)


def test_a_missing_split_names_those_there_are(corpus: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.tsv: no such file; splits of .*ko_kr: train"):
        rows(corpus, "dev")


def test_a_table_without_audio_raises_an_input_error(corpus: Path) -> None:
    (corpus / "dev.tsv").write_text("1\ta.wav\tA\ta\ta\t16000\tMALE\n")
    with pytest.raises(InputError, match=r"audio/dev: no such folder, nor dev\.tar\.gz"):
        rows(corpus, "dev")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\ta.wav\tA", r"train\.tsv, line 4: 3 columns instead of 7"),
        ("1\ta.wav\tA\ta\ta\t1.5\tMALE", r"line 4: '1\.5' is not a number of samples"),
    ],
)
def test_a_broken_row_raises_an_input_error(line: str, message: str, corpus: Path) -> None:
    with (corpus / "train.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        rows(corpus)


def test_a_table_that_is_not_utf8_raises_an_input_error(corpus: Path) -> None:
    (corpus / "train.tsv").write_bytes("1\ta.wav\tnaïve\ta\ta\t16000\tMALE\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.tsv: not a table in UTF-8"):
        rows(corpus)


def test_a_nul_damages_its_row_alone(corpus: Path) -> None:
    table = (corpus / "train.tsv").read_text(encoding="utf-8")
    (corpus / "train.tsv").write_text(table.replace("Two.", "T\0wo."), encoding="utf-8")
    assert [u.text for u in rows(corpus)] == ['"첫" 문장.', '"첫" 문장.', "T\ufffdwo."]


def test_half_an_archive_raises_an_input_error(corpus: Path) -> None:
    unpacked = corpus / "audio" / "train"
    archive = pack(unpacked) if unpacked.is_dir() else unpacked.with_name("train.tar.gz")
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(InputError, match=r"train\.tar\.gz: cannot be read to its end"):
        rows(corpus)
