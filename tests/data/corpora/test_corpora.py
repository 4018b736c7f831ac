"""A corpus's layout is detected by its files; splits and corpora are joined."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.corpora import LAYOUTS, read
from data.errors import InputError

WriteClip = Callable[..., Path]


def ids(*corpora: Path | str, split: str = "train", **knobs: Any) -> list[str]:
    """Return the ids of a split."""
    config = DataConfig(corpus=tuple(str(c) for c in corpora), **knobs)
    return [u.id for u in read(config, split)]


def manifest(folder: Path, name: str = "train.jsonl") -> Path:
    """Write a manifest of one row."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text('{"path": "a.wav", "text": "one"}\n')
    return folder


def test_joined_splits_are_read_one_after_another(tone_corpus: Path) -> None:
    joined = ids(tone_corpus, split="train+dev")
    assert joined == ids(tone_corpus) + ids(tone_corpus, split="dev")
    assert len(joined) == 30


def test_each_of_several_corpora_may_name_its_split_or_none(
    tone_corpus: Path, tmp_path: Path
) -> None:
    mine = manifest(tmp_path / "m", "mine.jsonl")
    both = ids(tone_corpus, mine, split="dev+test,mine")
    assert both == ids(tone_corpus, split="dev+test") + ids(mine, split="mine")
    assert ids(tone_corpus, mine, split=",mine") == ids(mine, split="mine")
    with pytest.raises(InputError, match=r"data.dev_split is 'a,b,c' for 2 corpora: give one for"):
        ids(tone_corpus, mine, dev_split="a,b,c")


def test_several_corpora_of_any_layout_are_joined(tone_corpus: Path, tmp_path: Path) -> None:
    assert len(ids(tone_corpus, manifest(tmp_path / "m"))) == 25


def test_a_manifest_is_a_folder_or_a_file(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "m")
    assert ids(folder) == ids(folder / "train.jsonl")
    assert len(ids(folder)) == 1


def test_a_manifest_beside_a_folder_named_clips_is_a_manifest(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "mine")
    (folder / "clips").mkdir()
    assert len(ids(folder)) == 1


def test_a_layout_that_is_said_is_not_guessed(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "mine")
    with pytest.raises(InputError, match=r"train\.tsv: no such file"):
        ids(folder, layout=("common_voice",))
    (folder / "train.tsv").write_text("path\tsentence\n")
    assert len(ids(folder, layout=("manifest",))) == 1


def test_no_corpus_raises_an_input_error() -> None:
    with pytest.raises(InputError, match=r"data.corpus is empty: name a folder"):
        ids()


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./no", "../no", "~/no", "a/b/c", "with space", ""]
)
def test_a_corpus_that_is_not_there_raises_an_input_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data.corpus|no known corpus layout"):
        ids(name)


def test_a_name_of_the_hub_that_cannot_be_had_raises_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nobody/nothing: split 'train' cannot be loaded: \w+"):
        ids("nobody/nothing")


def test_an_unknown_layout_raises_with_known_layouts_and_found_files(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"found nothing; looked for .* clips/ and \*\.tsv"
    ) as error:
        ids(tmp_path)
    assert all(f"({name})" in str(error.value) for name in LAYOUTS)
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("")
    with pytest.raises(InputError, match=r"found 0\.txt, 1\.txt, 2\.txt, 3\.txt, 4\.txt …"):
        ids(tmp_path)
