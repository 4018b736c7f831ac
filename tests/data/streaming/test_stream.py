"""Streaming a dataset: every row once per epoch, from any position; errors are InputErrors."""

import random
from collections.abc import Callable
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.config import DataConfig
from data.errors import InputError
from data.streaming.stream import Stream, StreamPosition, StreamRow
from tests.shards import (
    AUDIO,
    ROWS,
    SHARDS,
    text_of,
    tone,
    write_arrow,
    write_parquet,
    write_saved,
    write_tars,
)

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` writes out of the home folder, and its progress off the screen."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def stream_of(folder: Path | str, seed: int = 0, **knobs: Any) -> Stream:
    """Open a folder as a stream."""
    return Stream(DataConfig(corpus=(str(folder),), streaming=True, **knobs), seed, None)


def epoch(stream: Stream, number: int = 0) -> list[StreamRow]:
    """Return the rows of an epoch."""
    samples = stream.rows(StreamPosition(number))
    return list(takewhile(lambda sample: sample.position.epoch == number, samples))


def ids(samples: list[StreamRow]) -> list[str]:
    """Return the ids of rows."""
    return [sample.utterance.id for sample in samples]


@pytest.mark.parametrize(
    "write",
    [
        write_parquet,
        write_arrow,
        write_saved,
        write_tars,
        lambda folder: write_tars(folder, "txt"),
    ],
    ids=["parquet", "arrow", "saved", "tar and json", "tar and txt"],
)
def test_every_row_of_every_format_comes_once_an_epoch(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    stream = stream_of(write(tmp_path / "mine"), language=("en",))
    for number in range(3):
        samples = epoch(stream, number)
        assert len(set(ids(samples))) == len(samples) == SHARDS * ROWS
        for sample in samples:
            shard, row = map(int, sample.utterance.id.removeprefix("mine/train/").split("-"))
            clip = shard * ROWS + row
            assert (sample.utterance.text, sample.audio) == (text_of(clip), tone(clip))
            assert sample.utterance.language == "en"


def test_epochs_differ_in_the_order_of_shards_and_seeds_too(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "mine")
    orders = {
        tuple(ids(epoch(stream_of(folder, seed), number))) for seed in (0, 1) for number in range(8)
    }
    assert len(orders) > 3  # of six that there are
    assert ids(epoch(stream_of(folder), 5)) == ids(epoch(stream_of(folder), 5))


@pytest.mark.parametrize("write", [write_parquet, write_tars, write_saved])
def test_a_stream_continues_from_any_place(write: Callable[[Path], Path], tmp_path: Path) -> None:
    stream = stream_of(write(tmp_path / "mine"), language=("en",))
    whole = list(islice(stream.rows(StreamPosition()), 2 * SHARDS * ROWS))
    for begin in random.Random(0).sample(range(len(whole) - 5), 12):
        assert list(islice(stream.rows(whole[begin].position), 5)) == whole[begin : begin + 5]


def test_columns_are_found_and_named_as_in_a_dataset_that_is_downloaded(tmp_path: Path) -> None:
    table = pq.read_table(write_parquet(tmp_path / "mine") / "train-00000-of-00003.parquet")
    renamed = table.rename_columns(["sound", "normalized", "lang"])
    (tmp_path / "other").mkdir()
    pq.write_table(renamed, tmp_path / "other" / "train.parquet")
    knobs = {"audio_column": "sound", "text_column": "normalized", "language_column": "lang"}
    sample = next(stream_of(tmp_path / "other", **knobs).rows(StreamPosition()))
    assert (sample.utterance.text, sample.utterance.language) == (text_of(0), "en")
    assert sample.audio == tone(0)


def test_what_is_no_character_is_a_damaged_text(tmp_path: Path) -> None:
    folder = write_tars(tmp_path / "mine", texts={8: "half \ud83d an emoji"})
    texts = {sample.utterance.id: sample.utterance.text for sample in epoch(stream_of(folder))}
    assert texts["mine/train/0-8"] == "half \N{REPLACEMENT CHARACTER} an emoji"  # screened later


def test_a_row_without_audio_holds_nothing_to_decode(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "mine", {3: None, 5: {"bytes": None, "path": None}})
    audio = {sample.utterance.id: sample.audio for sample in epoch(stream_of(folder))}
    assert [name for name in audio if not audio[name]] == ["mine/train/0-3", "mine/train/0-5"]


@pytest.mark.parametrize("revision", [None, "main"])
def test_the_commit_that_is_read_is_known(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, local = [], datasets.load_dataset_builder

    def remote(path: str, **options: Any) -> Any:  # the Hub cannot be had in a test
        asked.append(options["revision"])
        builder = local(path, **{**options, "revision": None})
        builder.hash = COMMIT
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", remote)
    config = DataConfig(corpus=(str(write_parquet(tmp_path / "mine")),), streaming=True)
    assert Stream(config, 0, revision).revision == COMMIT
    assert asked == [revision]


def test_a_local_folder_has_no_commit(tmp_path: Path) -> None:
    assert stream_of(write_parquet(tmp_path / "mine")).revision is None


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_shard_that_is_cut_short_raises_an_input_error(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = write(tmp_path / "mine")
    for path in list(folder.iterdir())[1:]:
        content = path.read_bytes()
        half = len(content) // 2
        if path.suffix == ".tar":
            path.write_bytes(content[:half])
        else:  # the footer is sound, the rows are not
            path.write_bytes(content[:4] + bytes(half) + content[4 + half :])
    with pytest.raises(
        InputError, match=r"mine: shard \d of split 'train' cannot be read after row"
    ):
        epoch(stream_of(folder))


def test_an_empty_split_raises_an_input_error(tmp_path: Path) -> None:
    columns = {"audio": pa.array([], AUDIO), "text": pa.array([], pa.string())}
    datasets.Dataset(pa.table(columns)).save_to_disk(tmp_path / "mine")
    with pytest.raises(InputError, match="mine: split 'train' cannot be loaded: it is empty"):
        stream_of(tmp_path / "mine")


def test_tar_files_that_hold_nothing_raise_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train-000000.tar").write_bytes(bytes(10_240))
    with pytest.raises(InputError, match="mine: split 'train' cannot be loaded"):
        stream_of(tmp_path / "mine")


def test_audio_in_files_beside_the_rows_raises_an_input_error(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "mine", {0: {"bytes": None, "path": "/etc/passwd"}})
    with pytest.raises(
        InputError, match=r"rows have paths of files, such as '/etc/passwd'.*streaming=false"
    ):
        epoch(stream_of(folder))


def test_columns_that_are_missing_raise_an_input_error(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "mine")
    for knobs, told in (
        (
            {"audio_column": "sound"},
            r"no column 'sound'; set data.audio_column to one of \['audio'",
        ),
        ({"audio_column": "text"}, r"column 'text' holds no audio"),
        ({"text_column": "words"}, r"no column words of texts; set data.text_column"),
        ({"train_split": "other"}, r"split 'other' cannot be loaded: .*train"),
        ({"data_files": ("dev=*",)}, r"data.data_files has no files of 'train'"),
    ):
        with pytest.raises(InputError, match=told):
            stream_of(folder, **knobs)


def test_columns_that_are_not_known_before_raise_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.csv").write_text("audio,text\na.wav,one\n")
    with pytest.raises(InputError, match="mine: its columns are only known after"):
        stream_of(tmp_path / "mine", layout=("hub",))


def test_what_cannot_be_streamed_raises_an_input_error(tone_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="streaming reads datasets of the Hub, and folders of"):
        stream_of(tone_corpus)
    with pytest.raises(InputError, match="no such folder or file"):
        stream_of(tmp_path / "nothing")
    with pytest.raises(InputError, match="nobody/nothing: split 'train' cannot be loaded"):
        stream_of("nobody/nothing")
    with pytest.raises(InputError, match=r"data\.corpus is empty"):
        Stream(DataConfig(streaming=True), 0, None)
