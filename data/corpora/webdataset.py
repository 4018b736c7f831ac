"""WebDataset's tar shards: KEY.wav with KEY.txt or KEY.json, read without unpacking.

SPLIT-000000.tar, SPLIT-000001.tar … or SPLIT/*.tar; also .tar.gz and .tgz, at the cost given in
data/audio/tar.py. The JSON has the text, and optionally language, speaker and seconds.
https://github.com/webdataset/webdataset
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data.audio.tar import Member, contents, locator, members
from data.config import DataConfig
from data.corpora.hf_datasets import (
    LANGUAGE_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    candidate_columns,
)
from data.corpora.text_tables import NO_CHARACTER
from data.errors import InputError
from data.utterance import Utterance

DESCRIPTION = "SPLIT-000000.tar or SPLIT/000000.tar"
SUFFIX = r"\.(?:tar|tar\.gz|tgz)"
NUMBER = r"\d+(?:-of-\d+)?"
SHARD = re.compile(rf"(?:(?:.+[-_])?{NUMBER}|train|dev|validation|test){SUFFIX}")
AUDIO = ("wav", "flac", "mp3", "ogg", "opus")
TEXTS = ("json", "txt")
SECONDS = ("seconds", "duration")

Sample = dict[str, Member]  # members with the same key, by suffix


def matches(path: Path) -> bool:
    """Return whether a folder, or a subfolder, has tar files with names of shards or splits."""
    return any(SHARD.fullmatch(file.name) for file in (*path.glob("*.t*"), *path.glob("*/*.t*")))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the samples of a split, shard by shard.

    Raises:
        InputError: there are no shards, one is damaged, or a sample's metadata is invalid.
    """
    folder = Path(corpus)
    for shard in _shards(folder, split):
        samples = _samples(shard)
        metadata_members = [
            sample[kind] for sample in samples.values() for kind in TEXTS if kind in sample
        ]
        contents_by_name = {
            member.name: content for member, content in contents(shard, metadata_members)
        }
        for key, sample in samples.items():
            audio = next((sample[kind] for kind in AUDIO if kind in sample), None)
            texts = {kind: contents_by_name[sample[kind].name] for kind in TEXTS if kind in sample}
            yield Utterance(
                id=f"{folder.name}/{shard.relative_to(folder).as_posix()}/{key}",
                audio=f"{shard.absolute()}/{key}" if audio is None else locator(shard, audio),
                **_fields(config, f"{shard}/{key}", texts),
            )


def _shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order.

    Raises:
        InputError: there are none.
    """
    has_folder = (folder / split).is_dir()
    name = re.compile((r".+" if has_folder else rf"{re.escape(split)}(?:[-_]{NUMBER})?") + SUFFIX)
    shard_dir = folder / split if has_folder else folder
    paths = sorted(shard_dir.iterdir()) if shard_dir.is_dir() else []
    shards = [path for path in paths if name.fullmatch(path.name)]
    if not shards:
        names = ", ".join(path.name for path in paths[:5]) or "nothing"
        raise InputError(
            f"{shard_dir}: no shards of split {split!r}, such as {split}-000000.tar or "
            f"{split}/000000.tar; found {names}"
        )
    return shards


def _samples(shard: Path) -> dict[str, Sample]:
    """Return a shard's samples by key, without hidden files, as macOS leaves them."""
    samples: dict[str, Sample] = {}
    for member in members(shard).values():
        key, _, kind = member.name.rpartition(".")
        if kind.lower() in (*AUDIO, *TEXTS) and not PurePosixPath(key).name.startswith("."):
            samples.setdefault(key, {})[kind.lower()] = member
    return samples


def _fields(config: DataConfig, where: str, texts: Mapping[str, bytes]) -> dict[str, Any]:
    """Return text, language, speaker and seconds; the text is empty without .txt and .json."""
    row = _row(where, texts["json"]) if "json" in texts else {}
    text = ""
    if "txt" in texts and not (row and config.text_column != "auto"):
        text = _decoded(f"{where}.txt", texts["txt"])
    elif row:
        text = _text(config, where, row)
    language = _first(row, candidate_columns(config.language_column, LANGUAGE_COLUMNS))
    speaker = _first(row, candidate_columns(config.speaker_column, SPEAKER_COLUMNS))
    return {
        "text": text.strip(),
        "seconds": _seconds(where, row),
        "language": re.split("[-_]", str(language))[0].lower() if language else None,
        "speaker": None if speaker is None else str(speaker),
    }


def _text(config: DataConfig, where: str, row: Mapping[str, Any]) -> str:
    columns = candidate_columns(config.text_column, TEXT_COLUMNS)
    column = next((name for name in columns if name in row), None)
    if column is None:
        raise InputError(
            f"{where}.json: no {' or '.join(columns)}; set data.text_column to one of {list(row)}"
        )
    text = row[column] or ""
    if not isinstance(text, str):
        raise InputError(f"{where}.json: {column} is {text!r}, not a text")
    return NO_CHARACTER.sub("\ufffd", text)


def _row(where: str, content: bytes) -> dict[str, Any]:
    try:
        row = json.loads(_decoded(f"{where}.json", content))
    except json.JSONDecodeError as error:
        raise InputError(f"{where}.json: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}.json: expected an object, got {row!r}")
    return row


def _seconds(where: str, row: Mapping[str, Any]) -> float:
    value = _first(row, SECONDS)
    try:
        seconds = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InputError(f"{where}.json: {value!r} is not a number of seconds")
    return seconds


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _decoded(where: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not text in UTF-8: {error}") from error
