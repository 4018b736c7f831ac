"""data.audio_root: only the user may name a folder of audio outside of the manifest's."""

import json
from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora import read
from data.errors import InputError


def manifest(folder: Path, path: str, **more: str) -> str:
    """Write a manifest of one row, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"path": path, "text": "one", **more}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(folder)


def audios(corpora: tuple[str, ...], *roots: Path) -> list[str]:
    """Return the audio path of each row."""
    config = DataConfig(corpus=corpora, audio_root=tuple(map(str, roots)))
    return [u.audio for u in read(config, "train")]


def test_paths_are_relative_to_the_folder_that_was_said(tmp_path: Path) -> None:
    corpora = (manifest(tmp_path / "a", "1.wav"), manifest(tmp_path / "b", "2.wav"))
    (tmp_path / "audio" / "two").mkdir(parents=True)
    one, two = tmp_path / "audio", tmp_path / "audio" / "two"
    assert audios(corpora) == [str(tmp_path / "a" / "1.wav"), str(tmp_path / "b" / "2.wav")]
    assert audios(corpora, one) == [str(one / "1.wav"), str(one / "2.wav")]
    assert audios(corpora, one, two) == [str(one / "1.wav"), str(two / "2.wav")]


@pytest.mark.parametrize("path", ["../secret.wav", "/etc/passwd"])
def test_paths_stay_in_that_folder_too(path: str, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    with pytest.raises(InputError, match="paths in a corpus must stay in it"):
        audios((manifest(tmp_path / "m", path),), tmp_path / "audio")


def test_a_manifest_cannot_choose_the_folder_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown key 'audio_root'"):
        audios((manifest(tmp_path / "m", "a.wav", audio_root="/etc"),))


def test_a_folder_that_is_not_there_raises_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no/audio: no such folder; set data.audio_root to the folder"
    ):
        audios((manifest(tmp_path / "m", "a.wav"),), tmp_path / "no" / "audio")


def test_there_is_one_folder_for_all_corpora_or_one_for_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.audio_root has 2 values for 3 corpora"):
        audios(("a", "b", "c"), tmp_path, tmp_path)
