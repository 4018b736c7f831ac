"""Hugging Face datasets, from the Hub or a local folder, with random access.

`datasets` never decodes audio, since its decoder needs FFmpeg's shared libraries: it returns bytes
or a path, which soundfile reads.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data.audio.hf_load_dataset import commit_of, open_split
from data.config import DataConfig
from data.errors import InputError
from data.utterance import Utterance

TEXT_COLUMNS = ("sentence", "text", "transcription", "transcript", "raw_transcription")
LANGUAGE_COLUMNS = ("locale", "language", "lang_id")
SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker")
DESCRIPTION = "dataset_dict.json, dataset_info.json, *.parquet or *.arrow"

Features = Mapping[str, Any]  # feature types by column name


class ColumnNames(NamedTuple):
    """The columns of a dataset; None if it has no such column."""

    text: str
    language: str | None
    speaker: str | None


def matches(path: Path) -> bool:
    """Return whether a folder has files that `datasets` can load."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    return saved or any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of a split, without audio, which is fetched row by row later.

    Each Utterance.audio has the loaded commit, so that a frozen manifest keeps referring to it.

    Raises:
        InputError: the dataset, the split or a column is missing.
    """
    locator = {
        "name": corpus,
        "subset": config.subset,
        "split": split,
        "files": files_of(config, split),
        "revision": config.revision,
        "column": config.audio_column,
    }
    rows = open_split(json.dumps(locator))
    locator["revision"] = commit_of(rows) or config.revision
    columns = columns_of(config, corpus, rows.features)
    for row, values in enumerate(rows.select_columns([name for name in columns if name])):
        yield Utterance(
            id=f"{Path(corpus).name}/{split}/{row}",
            audio="hub:" + json.dumps({**locator, "row": row}),
            **utterance_fields(columns, rows.features, values),
        )


def columns_of(config: DataConfig, corpus: str, features: Features) -> ColumnNames:
    """Return the columns of text, language and speaker.

    Raises:
        InputError: a column named by the user is missing, or there is no text column.
    """
    candidates = candidate_columns(config.text_column, TEXT_COLUMNS)
    text = _first(candidates, features)
    if text is None:
        raise InputError(
            f"{corpus}: no column {' or '.join(candidates)} of texts; "
            f"set data.text_column to one of {list(features)}"
        )
    language = _column("language", config.language_column, LANGUAGE_COLUMNS, corpus, features)
    speaker = _column("speaker", config.speaker_column, SPEAKER_COLUMNS, corpus, features)
    return ColumnNames(text, language, speaker)


def utterance_fields(
    columns: ColumnNames, features: Features, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return text, language and speaker of a row, as keyword arguments of Utterance."""
    language = _value(features, columns.language, values)
    return {
        "text": (values[columns.text] or "").strip(),
        "language": re.split("[-_]", language)[0].lower() if language else None,
        "speaker": _value(features, columns.speaker, values),
    }


def candidate_columns(knob: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Return the column named by an option, or the usual names if it is auto."""
    return usual if knob == "auto" else (knob,)


def files_of(config: DataConfig, split: str) -> list[str]:
    """Return the patterns that data.data_files gives for a split.

    Raises:
        InputError: a pattern names no split, or the split has no pattern.
    """
    files: dict[str, list[str]] = {}
    for argument in config.data_files:
        name, equals, pattern = argument.partition("=")
        if not (name and equals and pattern):
            raise InputError(
                f"data.data_files: {argument!r} is not SPLIT=FILES, as train=part-*.parquet"
            )
        files.setdefault(name, []).append(pattern)
    if files and split not in files:
        raise InputError(f"data.data_files has no files of {split!r}; it has {', '.join(files)}")
    return files.get(split, [])


def _column(
    key: str, knob: str, usual: tuple[str, ...], name: str, features: Features
) -> str | None:
    """Return the column named by the user, or a usual one if it exists."""
    if knob == "auto":
        return _first(usual, features)
    if knob not in features:
        raise InputError(
            f"{name}: no column {knob!r}; set data.{key}_column to one of {list(features)}"
        )
    return knob


def _value(features: Features, column: str | None, values: Mapping[str, Any]) -> str | None:
    """Return a cell as text; for a ClassLabel, the name of the class."""
    if column is None or values[column] is None:
        return None
    name_of = getattr(features[column], "int2str", str)
    return str(name_of(values[column]))


def _first(candidates: tuple[str, ...], features: Features) -> str | None:
    """Return the first column that exists and has strings, not class numbers."""
    for column in candidates:
        kind = getattr(features.get(column), "dtype", "")
        if kind in ("string", "large_string"):  # large_string: as pandas 3 and polars write
            return column
    return None
