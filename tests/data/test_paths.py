"""Paths that a corpus lists stay inside it, and symbolic links do not lead out."""

import os
from pathlib import Path

import pytest

from data.errors import InputError
from data.paths import resolve_inside


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.mp3", "a/../../b.mp3", "a/.."])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="paths in a corpus must stay in it") as error:
        resolve_inside(tmp_path, name, tmp_path / "train.tsv")
    assert "train.tsv" in str(error.value)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["a.mp3", "deep/er/a.mp3", "..a.mp3", "a..mp3", "./a.mp3"])
def test_a_path_inside_is_made_absolute(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_inside(tmp_path, name, tmp_path) == str(tmp_path / name)
    assert resolve_inside(Path(), name, tmp_path) == str(tmp_path / name)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a folder with two clips, next to a folder outside of it."""
    for name in ("corpus/deep/a.mp3", "corpus/b.mp3", "other/c.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "corpus"


def test_a_link_that_leads_out_is_refused_with_where_it_leads(corpus: Path) -> None:
    other = corpus.parent / "other"
    (corpus / "link.mp3").symlink_to(other / "c.mp3")
    (corpus / "chain.mp3").symlink_to("link.mp3")
    (corpus / "broken.mp3").symlink_to("/nowhere/c.mp3")
    (corpus / "folder").symlink_to(other)
    (corpus / "deep" / "up").symlink_to("../..")
    for name, target in (
        ("link.mp3", other / "c.mp3"),
        ("chain.mp3", other / "c.mp3"),
        ("broken.mp3", "/nowhere/c.mp3"),
        ("folder/c.mp3", other),
        ("deep/up/other/c.mp3", other),
    ):
        with pytest.raises(InputError) as error:
            resolve_inside(corpus, name, corpus / "train.tsv")
        sentence = f"train.tsv: {name!r} is a link that leads out of {corpus}, to {target}: copy"
        assert sentence in str(error.value)


def test_a_folder_whose_name_begins_like_the_corpus_is_outside(corpus: Path) -> None:
    beside = corpus.with_name("corpus2")
    beside.mkdir()
    (corpus / "a.mp3").symlink_to(beside / "a.mp3")
    with pytest.raises(InputError, match="leads out of"):
        resolve_inside(corpus, "a.mp3", corpus)


def test_links_that_stay_inside_are_followed_and_the_corpus_may_be_one(corpus: Path) -> None:
    (corpus / "same.mp3").symlink_to("deep/a.mp3")
    (corpus / "also").symlink_to(corpus / "deep")
    linked = corpus.with_name("linked")
    linked.symlink_to(corpus)
    for root in (corpus, linked):
        for name in ("same.mp3", "also/a.mp3", "deep/a.mp3", "not there/a.mp3"):
            assert resolve_inside(root, name, root) == str(root / name)


def test_a_folder_is_listed_once_however_many_rows_name_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: asked.append(path) or scandir(path))
    for _ in range(100):
        resolve_inside(corpus, "deep/a.mp3", corpus)
        resolve_inside(corpus, "b.mp3", corpus)
    assert asked == [str(corpus / "deep"), str(corpus)]
