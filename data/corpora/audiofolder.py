"""Hugging Face's audiofolder: audio files next to metadata.csv or metadata.jsonl, which list them.

The table is in SPLIT/, or above folders with names of splits; otherwise everything is `train`.
https://huggingface.co/docs/datasets/audio_dataset#audiofolder
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.corpora.find_files import peek_folders, subfolders
from data.corpora.hf_datasets import (
    LANGUAGE_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    candidate_columns,
)
from data.corpora.text_tables import read_rows
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "metadata.csv or metadata.jsonl"
TABLES = ("metadata.csv", "metadata.jsonl")
# `datasets` takes folders of these names as splits, even if one table above them lists all files
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval"}

Row = dict[str, Any]


def matches(path: Path) -> bool:
    """Return whether a folder, or a subfolder, has the table."""
    return any(_table(folder) for folder in (path, *peek_folders(path)))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of a split. Paths are relative to the table's folder.

    Raises:
        InputError: the split, a column or a value is missing.
    """
    root = Path(corpus)
    table = _table(root / split) or _table(root)
    if table is None:
        known = ", ".join(name for name in subfolders(root) if _table(root / name)) or "none"
        raise InputError(
            f"{root / split}: has no {' nor '.join(TABLES)}; splits of {root}: {known}"
        )
    rows = list(_rows(table))
    if table.parent == root:
        rows = _rows_of_split(table, rows, split)
    columns = sorted({column for _, row in rows for column in row})
    text = _text_column(config, table, columns) if rows else ""
    language = _first(candidate_columns(config.language_column, LANGUAGE_COLUMNS), columns)
    speaker = _first(candidate_columns(config.speaker_column, SPEAKER_COLUMNS), columns)
    for name, row in rows:
        audio = resolve_inside(table.parent, name, table)
        language_code = str(row[language]).split("-")[0].lower() if language in row else None
        yield Utterance(
            id=f"{root.name}/{Path(audio).relative_to(root.absolute())}",
            audio=audio,
            text=str(row.get(text, "")).strip(),
            language=language_code,
            speaker=str(row[speaker]) if speaker in row else None,
        )


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _rows(table: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row with its file name."""
    for line, row in read_rows(table):
        if not isinstance(row, dict) or "file_name" not in row:
            raise InputError(f"{table}, line {line}: no file_name, which each row needs")
        if None in row:
            raise InputError(
                f"{table}, line {line}: more cells than columns: quote texts that have commas"
            )
        yield str(row["file_name"]), row


def _rows_of_split(table: Path, rows: list[tuple[str, Row]], split: str) -> list[tuple[str, Row]]:
    """Return a split's rows of a table that lists all splits."""
    row_splits = [name.split("/")[0] if "/" in name else "train" for name, _ in rows]
    if not SPLITS.intersection(row_splits):
        row_splits = ["train"] * len(rows)
    if rows and split not in row_splits:
        known = ", ".join(sorted(set(row_splits)))
        raise InputError(f"{table}: no rows of split {split}; its splits: {known}")
    return [row for home, row in zip(row_splits, rows, strict=True) if home == split]


def _text_column(config: DataConfig, table: Path, columns: Sequence[str]) -> str:
    wanted = candidate_columns(config.text_column, TEXT_COLUMNS)
    column = _first(wanted, columns)
    if column is None:
        raise InputError(
            f"{table}: no column {' or '.join(wanted)} of texts; "
            f"set data.text_column to one of {columns}"
        )
    return column


def _first(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((column for column in wanted if column in columns), None)
