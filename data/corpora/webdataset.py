"""Tar shards as WebDataset names them: KEY.wav beside KEY.txt or KEY.json, read where they lie.

SPLIT-000000.tar, SPLIT-000001.tar … or SPLIT/*.tar; .tar.gz and .tgz too, at the price that
data/audio/tar.py names. The JSON holds the text, and optionally language, speaker and seconds.
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
from data.corpora.hf_datasets import LANGUAGE_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, named
from data.corpora.text_tables import NO_CHARACTER
from data.errors import InputError
from data.utterance import Utterance

LOOKS = "SPLIT-000000.tar or SPLIT/000000.tar"
SUFFIX = r"\.(?:tar|tar\.gz|tgz)"
NUMBER = r"\d+(?:-of-\d+)?"
SHARD = re.compile(rf"(?:(?:.+[-_])?{NUMBER}|train|dev|validation|test){SUFFIX}")
AUDIO = ("wav", "flac", "mp3", "ogg", "opus")
TEXTS = ("json", "txt")
SECONDS = ("seconds", "duration")

Sample = dict[str, Member]  # files that share a key, by suffix


def matches(path: Path) -> bool:
    """Tell whether a folder, or one in it, holds tar files that are numbered or named as splits."""
    return any(SHARD.fullmatch(each.name) for each in (*path.glob("*.t*"), *path.glob("*/*.t*")))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the samples of a split, shard by shard.

    Raises:
        InputError: there are no shards, one is damaged, or what it says of a sample is wrong.
    """
    folder = Path(corpus)
    for shard in _shards(folder, split):
        samples = _samples(shard)
        said = [sample[kind] for sample in samples.values() for kind in TEXTS if kind in sample]
        told = {member.name: content for member, content in contents(shard, said)}
        for key, sample in samples.items():
            audio = next((sample[kind] for kind in AUDIO if kind in sample), None)
            texts = {kind: told[sample[kind].name] for kind in TEXTS if kind in sample}
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
    alone = (folder / split).is_dir()
    name = re.compile((r".+" if alone else rf"{re.escape(split)}(?:[-_]{NUMBER})?") + SUFFIX)
    place = folder / split if alone else folder
    listed = sorted(place.iterdir()) if place.is_dir() else []
    shards = [path for path in listed if name.fullmatch(path.name)]
    if not shards:
        found = ", ".join(path.name for path in listed[:5]) or "nothing"
        raise InputError(
            f"{place}: no shards of split {split!r}, such as {split}-000000.tar or "
            f"{split}/000000.tar; found {found}"
        )
    return shards


def _samples(shard: Path) -> dict[str, Sample]:
    """Return what a shard holds by key; hidden files, as macOS leaves them, are no samples."""
    samples: dict[str, Sample] = {}
    for member in members(shard).values():
        key, _, kind = member.name.rpartition(".")
        if kind.lower() in (*AUDIO, *TEXTS) and not PurePosixPath(key).name.startswith("."):
            samples.setdefault(key, {})[kind.lower()] = member
    return samples


def _fields(config: DataConfig, where: str, texts: Mapping[str, bytes]) -> dict[str, Any]:
    """Return text, language, speaker and seconds; what has neither .txt nor .json has no text."""
    row = _row(where, texts["json"]) if "json" in texts else {}
    text = ""
    if "txt" in texts and not (row and config.text_column != "auto"):
        text = _decoded(f"{where}.txt", texts["txt"])
    elif row:
        text = _text(config, where, row)
    language = _first(row, named(config.language_column, LANGUAGE_COLUMNS))
    speaker = _first(row, named(config.speaker_column, SPEAKER_COLUMNS))
    return {
        "text": text.strip(),
        "seconds": _seconds(where, row),
        "language": re.split("[-_]", str(language))[0].lower() if language else None,
        "speaker": None if speaker is None else str(speaker),
    }


def _text(config: DataConfig, where: str, row: Mapping[str, Any]) -> str:
    columns = named(config.text_column, TEXT_COLUMNS)
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
        raise InputError(f"{where}.json: {value!r} is no number of seconds")
    return seconds


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _decoded(where: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not text in UTF-8: {error}") from error
