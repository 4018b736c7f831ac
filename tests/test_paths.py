"""Paths that a corpus names stay inside it."""

from pathlib import Path

import pytest

from data.errors import InputError
from data.paths import inside


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.mp3", "a/../../b.mp3", "a/.."])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="paths in a corpus must stay in it") as told:
        inside(tmp_path, name, tmp_path / "train.tsv")
    assert "train.tsv" in str(told.value)
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("name", ["a.mp3", "deep/er/a.mp3", "..a.mp3", "a..mp3", "./a.mp3"])
def test_a_path_inside_is_made_absolute(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside(tmp_path, name, tmp_path) == str(tmp_path / name)
    assert inside(Path(), name, tmp_path) == str(tmp_path / name)
