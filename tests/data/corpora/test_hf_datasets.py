"""Hugging Face datasets in local folders: rows, columns, and the bytes of their audio."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.audio import hf_load_dataset as dataset
from data.audio.decode import AudioError, declared_seconds, decode
from data.config import DataConfig
from data.corpora import hf_datasets as hub
from data.corpora import read
from data.errors import InputError
from data.manifest import Manifest
from data.utterance import Utterance

WriteClip = Callable[..., Path]
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts out of the home folder, and its progress off the screen."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def clip(tmp_path: Path, write_clip: WriteClip) -> Path:
    """Return an mp3."""
    return write_clip(tmp_path / "clip.mp3", 1.0, 48_000)


def parquet(folder: Path, columns: dict[str, Any], name: str = "train.parquet") -> Path:
    """Write a parquet file; paths in `audio` become their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    audio = [
        {"bytes": path.read_bytes(), "path": path.name} if isinstance(path, Path) else path
        for path in columns["audio"]
    ]
    pq.write_table(pa.table({**columns, "audio": pa.array(audio, AUDIO)}), folder / name)
    return folder


def saved(clip: Path, split: str | None = None) -> datasets.Dataset:
    """Return a dataset of three rows whose audio is a file."""
    audio = [{"bytes": clip.read_bytes(), "path": clip.name}] * 3
    rows = {"audio": audio, "sentence": ["one", " two ", None], "locale": ["zh-TW"] * 3}
    dataset = datasets.Dataset.from_dict(rows, split=split and datasets.NamedSplit(split))
    return dataset.cast_column("audio", datasets.Audio(decode=False))


def rows(folder: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(corpus=(str(folder),), **knobs), split))


def same_audio(u: Utterance, clip: Path) -> bool:
    """Return whether an utterance decodes to the same samples as the file."""
    assert declared_seconds(u.audio) == declared_seconds(str(clip))
    (ours, rate), (theirs, expected) = decode(u.audio), decode(str(clip))
    return rate == expected and torch.equal(ours, theirs)


def test_a_dataset_of_parquet_files_gives_rows_and_audio(tmp_path: Path, clip: Path) -> None:
    columns = {"audio": [clip, clip], "text": [" one ", ""], "speaker_id": ["7", "8"]}
    folder = parquet(tmp_path / "mine", {**columns, "language": ["en", "zh-TW"]})
    first, second = rows(folder)
    assert (first.id, first.text, first.language, first.speaker) == (
        "mine/train/0",
        "one",
        "en",
        "7",
    )
    assert (second.text, second.language, second.seconds) == ("", "zh", 0.0)
    assert first.audio != second.audio
    assert same_audio(first, clip)
    part, rate = decode(second.audio, 0.25, 0.5)
    assert len(part) == 0.25 * rate


def test_a_dataset_dict_on_disk_has_its_splits(tmp_path: Path, clip: Path) -> None:
    whole = saved(clip)
    datasets.DatasetDict(train=whole, test=whole.select([0])).save_to_disk(tmp_path / "dict")
    train, test = rows(tmp_path / "dict"), rows(tmp_path / "dict", "test")
    assert ([u.text for u in train], len(test)) == (["one", "two", ""], 1)
    assert {u.language for u in train} == {"zh"}
    assert same_audio(test[0], clip)
    assert len(rows(tmp_path / "dict", "train+test")) == 4


def test_a_single_dataset_on_disk_is_read(tmp_path: Path, clip: Path) -> None:
    saved(clip).save_to_disk(tmp_path / "single")
    assert len(rows(tmp_path / "single")) == 3
    assert same_audio(rows(tmp_path / "single")[2], clip)


@pytest.mark.parametrize("name", ["train", None])
def test_a_single_dataset_is_not_every_split(name: str | None, tmp_path: Path, clip: Path) -> None:
    saved(clip, name).save_to_disk(tmp_path / "single")
    with pytest.raises(InputError, match="'test'"):
        rows(tmp_path / "single", "test")  # else a model is scored on what it was trained on


def test_audio_in_files_beside_the_table_is_read(tmp_path: Path, clip: Path) -> None:
    folder = parquet(
        tmp_path / "mine", {"audio": [{"bytes": None, "path": str(clip)}], "text": ["one"]}
    )
    assert same_audio(rows(folder)[0], clip)


@pytest.mark.parametrize("column", hub.TEXT_COLUMNS)
def test_the_text_column_is_found(column: str, tmp_path: Path, clip: Path) -> None:
    assert rows(parquet(tmp_path / "mine", {"audio": [clip], column: ["one"]}))[0].text == "one"


def test_the_users_columns_come_first(tmp_path: Path, clip: Path) -> None:
    columns = {"audio": [clip], "text": ["one"], "normalized": ["uno"]}
    folder = parquet(tmp_path / "mine", columns)
    assert rows(folder, text_column="normalized")[0].text == "uno"
    renamed = datasets.load_dataset(str(folder), split="train").rename_column("audio", "sound")
    datasets.DatasetDict(train=renamed).save_to_disk(tmp_path / "renamed")
    (u,) = rows(tmp_path / "renamed", audio_column="sound")
    assert same_audio(u, clip)


def test_strings_as_pandas_writes_them_are_strings(tmp_path: Path, clip: Path) -> None:
    large = pa.array(["en"], pa.large_string())
    columns = {"audio": [clip], "text": large, "language": large, "speaker": large}
    (u,) = rows(parquet(tmp_path / "mine", columns))
    assert (u.text, u.language, u.speaker) == ("en", "en", "en")


def test_a_column_of_class_numbers_is_no_language(tmp_path: Path, clip: Path) -> None:
    columns = {"audio": [clip], "text": ["one"], "lang_id": [19], "speaker_id": [7]}
    (u,) = rows(parquet(tmp_path / "mine", columns))
    assert (u.language, u.speaker) == (None, None)


def test_a_column_of_lists_is_no_speaker(tmp_path: Path, clip: Path) -> None:
    columns = {"audio": [clip], "text": ["one"], "speaker": [["ann", "bob"]]}
    assert rows(parquet(tmp_path / "mine", columns))[0].speaker is None


def test_a_text_column_of_numbers_raises_an_input_error(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(InputError, match=r"data.text_column"):
        rows(parquet(tmp_path / "mine", {"audio": [clip], "text": [5]}))


def test_an_audio_column_without_audio_raises_an_input_error(tmp_path: Path, clip: Path) -> None:
    folder = parquet(tmp_path / "mine", {"audio": [clip], "text": ["one"], "n": [5]})
    with pytest.raises(InputError, match=r"data.audio_column"):
        rows(folder, audio_column="n")


def test_a_missing_column_names_those_there_are(tmp_path: Path, clip: Path) -> None:
    folder = parquet(tmp_path / "mine", {"audio": [clip], "words": ["one"]})
    with pytest.raises(InputError, match=r"set data.text_column to one of \['audio', 'words'\]"):
        rows(folder)
    with pytest.raises(InputError, match=r"mine: no column nothing.*; set data.text_column"):
        rows(folder, text_column="nothing")
    with pytest.raises(InputError, match=r"no column 'sound'; set data.audio_column to one of"):
        rows(folder, audio_column="sound")


def test_a_missing_split_names_those_there_are(tmp_path: Path, clip: Path) -> None:
    folder = parquet(tmp_path / "mine", {"audio": [clip], "text": ["one"]})
    datasets.DatasetDict(train=saved(clip)).save_to_disk(tmp_path / "dict")
    for each in (folder, tmp_path / "dict"):
        with pytest.raises(InputError, match=r"split 'dev' cannot be loaded: .*train"):
            rows(each, "dev")


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_broken_table_raises_an_input_error(kept: float, tmp_path: Path, clip: Path) -> None:
    folder = parquet(tmp_path / "mine", {"audio": [clip] * 50, "text": ["one"] * 50})
    table = folder / "train.parquet"
    content = bytearray(table.read_bytes())
    if kept == 0.5:
        content = content[: len(content) // 2]
    else:  # the footer is sound, the rows are not
        content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    table.write_bytes(content)
    with pytest.raises(InputError, match="mine: split 'train' cannot be loaded"):
        rows(folder)


def test_a_row_without_audio_is_unreadable_or_missing(tmp_path: Path) -> None:
    nothing = [None, {"bytes": None, "path": None}, {"bytes": None, "path": "no.mp3"}]
    folder = parquet(tmp_path / "mine", {"audio": nothing, "text": ["one"] * 3})
    for u, reason in zip(rows(folder), ("unreadable", "unreadable", "missing"), strict=True):
        with pytest.raises(AudioError, match=reason):
            decode(u.audio)


def test_a_folder_is_known_by_what_datasets_writes(tmp_path: Path) -> None:
    assert not hub.matches(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "0.parquet").write_bytes(b"")
    assert hub.matches(tmp_path)


def as_arrow(folder: Path) -> None:
    """Write the tables of a folder again, as arrow files."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        with pa.ipc.new_stream(path.with_suffix(".arrow"), table.schema) as file:
            file.write_table(table)
        path.unlink()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_files_that_are_named_after_splits_are_splits(
    kind: str, tmp_path: Path, clip: Path
) -> None:
    folder = tmp_path / "mine"
    for name, texts in (("train", "ab"), ("dev", "cd"), ("test", "ef")):
        for number, text in enumerate(texts):
            stem = f"{name}-{number:05d}-of-00002"
            parquet(folder, {"audio": [clip], "text": [text]}, f"{stem}.parquet")
    if kind == "arrow":
        as_arrow(folder)
    for split, texts in (("train", "ab"), ("dev", "cd"), ("test", "ef")):
        assert [(u.id, u.text) for u in rows(folder, split)] == [
            (f"mine/{split}/{number}", text) for number, text in enumerate(texts)
        ]
    assert same_audio(rows(folder, "dev")[1], clip)


def test_a_split_called_validation_is_dev(tmp_path: Path, clip: Path) -> None:
    datasets.DatasetDict(validation=saved(clip)).save_to_disk(tmp_path / "dict")
    assert len(rows(tmp_path / "dict", "dev")) == len(rows(tmp_path / "dict", "validation")) == 3
    datasets.DatasetDict(validation=saved(clip), dev=saved(clip).select([0])).save_to_disk(
        tmp_path / "both"
    )
    assert len(rows(tmp_path / "both", "dev")) == 1


def test_the_user_says_which_files_are_a_split(tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("a0", "a1", "b", "c"):
        parquet(folder, {"audio": [clip], "text": [name]}, f"{name}.parquet")
    files = ("train=a*.parquet", "train=c.parquet", "dev=b.parquet")
    assert [u.text for u in rows(folder, data_files=files)] == ["a0", "a1", "c"]
    (u,) = rows(folder, "dev", data_files=files)
    assert (u.text, same_audio(u, clip)) == ("b", True)
    with pytest.raises(
        InputError, match=r"data.data_files has no files of 'test'; it has train, d"
    ):
        rows(folder, "test", data_files=files)
    with pytest.raises(InputError, match=r"split 'train' cannot be loaded: .*no\.parquet"):
        rows(folder, data_files=("train=no.parquet",))
    for wrong in ("a0.parquet", "=a0.parquet", "train="):
        with pytest.raises(
            InputError, match=r"data.data_files: '.*' is not SPLIT=FILES, as train="
        ):
            rows(folder, data_files=(wrong,))


def test_the_users_columns_of_language_and_speaker_come_first(tmp_path: Path, clip: Path) -> None:
    columns = {"audio": [clip, clip], "text": ["one", "two"], "language": ["en", "en"]}
    folder = parquet(tmp_path / "mine", {**columns, "tongue": ["zh_TW", None], "voice": [7, None]})
    found = rows(folder, language_column="tongue", speaker_column="voice")
    assert [(u.language, u.speaker) for u in found] == [("zh", "7"), (None, None)]
    assert [(u.language, u.speaker) for u in rows(folder)] == [("en", None)] * 2
    with pytest.raises(
        InputError, match=r"no column 'lang'; set data.language_column to one of \["
    ):
        rows(folder, language_column="lang")
    with pytest.raises(InputError, match=r"no column 'who'; set data.speaker_column to one of \["):
        rows(folder, speaker_column="who")


def test_a_class_is_a_language_by_its_name(tmp_path: Path, clip: Path) -> None:
    classes = datasets.ClassLabel(names=["en_us", "ko_kr"])
    labelled = saved(clip).add_column("lang_id", [1, 0, 1]).cast_column("lang_id", classes)
    datasets.DatasetDict(train=labelled).save_to_disk(tmp_path / "dict")
    found = rows(tmp_path / "dict", language_column="lang_id")
    assert [u.language for u in found] == ["ko", "en", "ko"]


def test_many_splits_are_opened_once_each(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = dataset._load_split

    def counted(at: dict[str, Any], split: str) -> Any:
        opened.append(at["name"])
        return load(at, split)

    monkeypatch.setattr(dataset, "_load_split", counted)
    folders = [
        parquet(tmp_path / str(number), {"audio": [clip], "text": ["one"]}) for number in range(12)
    ]
    found = [u for folder in folders for u in rows(folder)]
    for u in [*found, *found]:
        assert same_audio(u, clip)
    assert opened == [str(folder) for folder in folders]


OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"


@pytest.fixture
def cached(tmp_path: Path, clip: Path) -> Callable[[str, str], None]:
    """Return a function that puts a commit of nobody/mine where `datasets` caches the Hub."""

    def keep(commit: str, text: str) -> None:
        made = parquet(tmp_path / commit / "mine", {"audio": [clip], "text": [text]})
        table = datasets.load_dataset(str(made), split="train").cache_files[0]["filename"]
        home = Path(datasets.config.HF_DATASETS_CACHE) / "nobody___mine" / "default" / "0.0.0"
        shutil.copytree(Path(table).parent, home / commit)

    return keep


def test_the_commit_that_was_loaded_is_frozen_with_the_rows(
    cached: Callable[[str, str], None],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cached(OLD, "one")
    found = list(read(DataConfig(corpus=("nobody/mine",)), "train"))
    assert [u.text for u in found] == ["one"]
    manifest = Manifest(train=found)
    assert manifest.revisions() == {"nobody/mine": OLD}
    manifest.write(tmp_path / "manifest.jsonl")
    frozen = Manifest.read(tmp_path / "manifest.jsonl")
    assert frozen.revisions() == {"nobody/mine": OLD}
    assert same_audio(frozen.train[0], clip)
    dataset.open_split.cache_clear()  # as in another process, and another year
    cached(NEW, "two")
    with pytest.raises(InputError, match=rf"nobody/mine: commit {NEW} is in the cache, not"):
        decode(frozen.train[0].audio)
    with pytest.raises(InputError, match=r"or set data.revision to the cached commit"):
        list(read(DataConfig(corpus=("nobody/mine",), revision=OLD), "train"))
    newer = list(read(DataConfig(corpus=("nobody/mine",), revision=NEW), "train"))
    assert [u.text for u in newer] == ["two"]


def cache_at(folder: str) -> None:
    """Have a run's process look for datasets where this one keeps them."""
    datasets.config.HF_DATASETS_CACHE = Path(folder)


def test_a_run_says_which_commit_it_is_of_and_resumes_with_no_other(
    cached: Callable[[str, str], None], trainer: Any, tmp_path: Path
) -> None:
    cached(OLD, "one")
    known = partial(cache_at, str(datasets.config.HF_DATASETS_CACHE))
    knobs = ("--data.corpus", "nobody/mine", "--data.language", "en", "--checkpoint.save_every=1")
    run = tmp_path / "run"
    trainer(run, *knobs, "--loop.max_steps=1", sabotage=known)
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert facts["revisions"] == {"nobody/mine": OLD}
    cached(NEW, "two")
    more = (*knobs, "--loop.max_steps=2", "--resume=auto", "--accept", "loop.max_steps")
    done = trainer(run, *more, sabotage=known, check=False)
    assert done.returncode == 2
    assert f"error: nobody/mine: commit {NEW} is in the cache, not {OLD}" in done.output


def test_folders_have_no_commit(tmp_path: Path, clip: Path) -> None:
    folder = parquet(tmp_path / "mine", {"audio": [clip], "text": ["one"]})
    found = rows(folder)
    assert Manifest(train=found, dev=[Utterance(id="a", audio="/a.wav", text="")]).revisions() == {}
    assert found[0].audio.startswith("hub:")


def test_rows_that_were_frozen_before_files_could_be_named_are_read(
    tmp_path: Path, clip: Path
) -> None:
    (u,) = rows(parquet(tmp_path / "mine", {"audio": [clip], "text": ["one"]}))
    locator = json.loads(u.audio.removeprefix("hub:"))
    del locator["files"]
    assert same_audio(replace(u, audio=f"hub:{json.dumps(locator)}"), clip)
