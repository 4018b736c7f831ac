"""Hugging Face datasets, from the Hub or a local folder, as map-style sources.

Audio columns are never decoded by `datasets`, whose decoder needs FFmpeg's shared libraries: they
give bytes, or a path, and soundfile reads those.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.dataset import commit_of, open_split
from data.errors import InputError
from data.utterance import Utterance

TEXT_COLUMNS = ("sentence", "text", "transcription", "transcript", "raw_transcription")
LANGUAGE_COLUMNS = ("locale", "language", "lang_id")
SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker")
LOOKS = "dataset_dict.json, dataset_info.json, *.parquet or *.arrow"


def matches(path: Path) -> bool:
    """Tell whether a folder holds what `datasets` wrote or can load."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    return saved or any(path.rglob("*.parquet")) or any(path.rglob("*.arrow"))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of a split, with texts; the audio is fetched row by row later.

    Each names the commit that was loaded: a frozen manifest is of that one, whatever comes after.

    Raises:
        InputError: the dataset, the split or a column is missing.
    """
    locator = {
        "name": corpus,
        "subset": config.subset,
        "split": split,
        "files": _files(config, split),
        "revision": config.revision,
        "column": config.audio_column,
    }
    rows = open_split(json.dumps(locator))
    locator["revision"] = commit_of(rows) or config.revision
    text = _text_column(config, corpus, rows)
    language = _column("language", config.language_column, LANGUAGE_COLUMNS, corpus, rows)
    speaker = _column("speaker", config.speaker_column, SPEAKER_COLUMNS, corpus, rows)
    wanted = [column for column in (text, language, speaker) if column]
    for row, values in enumerate(rows.select_columns(wanted)):
        said = _value(rows, language, values)
        yield Utterance(
            id=f"{Path(corpus).name}/{split}/{row}",
            audio="hub:" + json.dumps({**locator, "row": row}),
            text=(values[text] or "").strip(),
            language=re.split("[-_]", said)[0].lower() if said else None,
            speaker=_value(rows, speaker, values),
        )


def named(knob: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Return the column that a knob names, or the usual names where it says auto."""
    return usual if knob == "auto" else (knob,)


def _files(config: DataConfig, split: str) -> list[str]:
    """Return the patterns that data.data_files gives for a split.

    Raises:
        InputError: one has no split, or the split has none.
    """
    files: dict[str, list[str]] = {}
    for each in config.data_files:
        name, equals, pattern = each.partition("=")
        if not (name and equals and pattern):
            raise InputError(
                f"data.data_files: {each!r} is not SPLIT=FILES, as train=part-*.parquet"
            )
        files.setdefault(name, []).append(pattern)
    if files and split not in files:
        raise InputError(f"data.data_files has no files of {split!r}; it has {', '.join(files)}")
    return files.get(split, [])


def _text_column(config: DataConfig, name: str, rows: Any) -> str:
    candidates = named(config.text_column, TEXT_COLUMNS)
    column = _first(candidates, rows)
    if column is None:
        raise InputError(
            f"{name}: no column {' or '.join(candidates)} of texts; "
            f"set data.text_column to one of {rows.column_names}"
        )
    return column


def _column(key: str, knob: str, usual: tuple[str, ...], name: str, rows: Any) -> str | None:
    """Return the column that the user named, or a usual one if it is there."""
    if knob == "auto":
        return _first(usual, rows)
    if knob not in rows.column_names:
        raise InputError(
            f"{name}: no column {knob!r}; set data.{key}_column to one of {rows.column_names}"
        )
    return knob


def _value(rows: Any, column: str | None, values: dict[str, Any]) -> str | None:
    """Return a cell as text; a class's name for its number."""
    value = None if column is None else values[column]
    name_of = getattr(rows.features.get(column), "int2str", str)
    return None if value is None else str(name_of(value))


def _first(candidates: tuple[str, ...], rows: Any) -> str | None:
    """Return the first column that is there and holds text, not a class number."""
    for column in candidates:
        kind = getattr(rows.features.get(column), "dtype", "")
        if kind in ("string", "large_string"):  # large: as pandas 3 and polars write them
            return column
    return None
