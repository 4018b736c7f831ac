"""Audio files, each next to a .txt."""

import shutil
from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora.find_files import PEEK
from data.corpora.folder import matches, read
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import folder, write, write_tone


def rows(corpus: Path, split: str = "train") -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(), str(corpus), split))


def flat(root: Path) -> Path:
    """Write two clips, in no folder."""
    for name in ("a", "b.c"):
        write_tone(root / f"{name}.wav")
        write(root / f"{name}.txt", name)
    return root


def test_a_clip_is_named_after_its_place(tmp_path: Path) -> None:
    first = rows(folder(tmp_path / "mine"))[0]
    audio = str(tmp_path / "mine" / "train" / "ann" / "0.mp3")
    assert first == Utterance(id="mine/train/ann/0", audio=audio, text="one two 0")


def test_what_lies_flat_is_train(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    assert [u.text for u in rows(corpus)] == ["a", "b.c"]
    with pytest.raises(
        InputError, match=r"so all of it is train, and there is no dev: .*dev_split=none"
    ):
        rows(corpus, "dev")


def test_audio_both_flat_and_in_folders_raises_an_input_error(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(InputError, match="both flat in it and in ann: make one folder per split"):
        rows(flat(tmp_path))


def test_what_is_not_paired_has_a_fault(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    write_tone(corpus / "alone.wav")
    (corpus / "phone.m4a").write_bytes(b"not decoded by libsndfile, and not passed over either")
    write(corpus / "notes.txt", "no audio")
    (corpus / "a.txt").write_bytes(b"\xff\xff\xff")
    faults = {Path(u.audio).name: u.fault for u in rows(corpus)}
    assert faults == {
        "a.wav": "text in an unknown encoding",
        "alone.wav": "no transcript",
        "b.c.wav": "",
        "notes.txt": "text without audio",
        "phone.m4a": "no transcript",
    }


def test_an_empty_text_stays_empty(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    write(corpus / "a.txt", " ", "")
    assert [(u.text, u.fault) for u in rows(corpus)] == [("", ""), ("b.c", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_in_unicode(encoding: str, tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    write(corpus / "a.txt", "naïve 零", encoding=encoding)
    assert rows(corpus)[0].text == "naïve 零"


def test_lines_of_a_text_are_joined_and_that_is_counted(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    (corpus / "a.txt").write_bytes(b"one \r\n\r\n two\r\n")
    assert (rows(corpus)[0].text, rows(corpus)[0].rules) == ("one two", ("lines joined",))
    assert rows(corpus)[1].rules == ()


def test_two_files_of_one_name_are_one_id_and_counted_later(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    write_tone(corpus / "a.flac")
    assert [u.id for u in rows(corpus)].count(f"{tmp_path.name}/a") == 2


def test_hidden_files_are_no_clips(tmp_path: Path) -> None:
    corpus = flat(tmp_path)
    (corpus / "._a.wav").write_bytes(b"as macOS writes beside a.wav")
    shutil.copytree(corpus, tmp_path / ".cache")
    assert len(rows(corpus)) == 2


def test_a_link_to_a_folder_raises_an_input_error(tmp_path: Path) -> None:
    corpus = flat(tmp_path / "mine")
    (corpus / "round").symlink_to(corpus)
    with pytest.raises(InputError, match="mine/round: links to folders are not followed"):
        rows(corpus)


def test_a_link_that_leads_out_raises_an_input_error(tmp_path: Path) -> None:
    corpus = flat(tmp_path / "mine")
    (corpus / "a.txt").unlink()
    (corpus / "a.txt").symlink_to(write(tmp_path / "secret.txt", "of somebody else"))
    with pytest.raises(InputError, match="is a link that leads out"):
        rows(corpus)


def test_matches_finds_a_pair_in_folders_and_among_many_files(tmp_path: Path) -> None:
    deep = tmp_path / "deep" / "train" / "ann"
    write_tone(deep / "a.wav")
    assert not matches(tmp_path / "deep")
    write(deep / "a.txt", "one")
    assert matches(tmp_path / "deep")
    (tmp_path / "many").mkdir()
    for number in range(2 * PEEK):
        (tmp_path / "many" / f"{number}.wav").touch()
        (tmp_path / "many" / f"{number}.txt").touch()
    assert matches(tmp_path / "many")
