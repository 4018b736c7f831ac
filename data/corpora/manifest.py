"""JSON Lines or CSV with a row an utterance: path and text, and optionally more.

Columns: path, text; optionally id, seconds, start, end, language, speaker, split. A folder holds
SPLIT.jsonl or SPLIT.csv; a single file has a column `split`, or is named after its only one.
"""

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data.config import DataConfig
from data.errors import InputError
from data.files import mended
from data.paths import inside
from data.utterance import Utterance

NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # in JSON, half of an emoji that was cut in two
LOOKS = "*.jsonl or *.csv"
KNOWN = {"id", "path", "text", "seconds", "start", "end", "language", "speaker", "split"}


def matches(path: Path) -> bool:
    """Tell whether this is a table, or a folder of tables."""
    return path.is_file() or any(path.glob("*.jsonl")) or any(path.glob("*.csv"))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the utterances of a split. Paths are relative to the manifest's folder, or audio_root.

    Raises:
        InputError: a file, a column or a value is missing or wrong.
    """
    source = _file_of(Path(corpus), split)
    root = _root(config, corpus) or source.parent
    named_after = source.stem == split
    for line, row in _rows(source):
        if not isinstance(row, dict):
            raise InputError(
                f"{source}, line {line}: expected an object with path and text, got {row!r}"
            )
        if "split" in row and row["split"] != split:
            continue
        if "split" not in row and not named_after:
            raise InputError(
                f"{source}: has no column 'split' and is not named {split}: "
                f"add the column, or make a folder with {split}.jsonl"
            )
        yield _utterance(source, line, row, root)


def _root(config: DataConfig, corpus: str) -> Path | None:
    roots = {each.name: each.audio_root for each in config.sources}
    root = roots.get(corpus)
    if root is None:
        return None
    if not Path(root).is_dir():
        raise InputError(
            f"{root}: no such folder; set data.audio_root to where the audio of {corpus} lies"
        )
    return Path(root)


def _file_of(corpus: Path, split: str) -> Path:
    if corpus.is_file():
        return corpus
    for suffix in (".jsonl", ".csv"):
        if (corpus / f"{split}{suffix}").is_file():
            return corpus / f"{split}{suffix}"
    found = (
        ", ".join(sorted(p.name for p in corpus.glob("*.*")))
        if corpus.is_dir()
        else "no such folder"
    )
    raise InputError(f"{corpus / split}.jsonl: no such file, nor .csv; found: {found}")


def _rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and rows."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _csv_rows(file) if source.suffix == ".csv" else _json_rows(file)
        except ValueError as error:
            raise InputError(f"{source}: cannot be read as {source.suffix[1:]}: {error}") from error


def _csv_rows(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Empty cells count as absent. A stray quote is an error: it would swallow the rows below."""
    table = csv.DictReader(mended(file), strict=True)
    try:
        for row in table:
            cells = {key: value for key, value in row.items() if value not in ("", None)}
            yield table.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"line {table.line_num}: {error}; a quote within a quoted cell is written twice"
        ) from error


def _json_rows(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(mended(file), 1):
        if line.strip():
            try:
                yield number, _plain(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg} at column {error.colno}") from error


def _plain(row: Any) -> Any:
    """A null is an absent key; str(None) would be a text. What is no character is a damaged one."""
    if not isinstance(row, dict):
        return row
    texts = {k: NO_CHARACTER.sub("\ufffd", v) for k, v in row.items() if isinstance(v, str)}
    return {k: texts.get(k, v) for k, v in row.items() if v is not None}


def _utterance(source: Path, line: int, row: dict[str, Any], root: Path) -> Utterance:
    where = f"{source}, line {line}"
    unknown = sorted(set(row) - KNOWN, key=str)
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(KNOWN))}"
        )
    if "path" not in row:
        raise InputError(f"{where}: no 'path'; each row needs path and text")
    start, end = _number(row, "start", where) or 0.0, _number(row, "end", where)
    seconds = _number(row, "seconds", where) or 0.0
    if end is None and "start" in row and seconds:
        end = start + seconds
    if end is not None and end <= start:
        raise InputError(f"{where}: end is {end} and start {start}: end must be later, in seconds")
    return Utterance(
        id=str(row.get("id", f"{source.parent.name}/{row['path']}{_slice(start, end)}")),
        audio=inside(root, str(row["path"]), source),
        text=str(row.get("text", "")).strip(),
        seconds=seconds if end is None else end - start,
        language=row.get("language"),
        speaker=row.get("speaker"),
        start=start,
        end=end,
    )


def _number(row: dict[str, Any], key: str, where: str) -> float | None:
    try:
        number = None if row.get(key) is None else float(row[key])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {key} must be a number of seconds, got {row[key]!r}") from error
    if number is not None and not 0 <= number < math.inf:
        raise InputError(f"{where}: {key} must be a number of seconds, 0 or more, got {row[key]!r}")
    return number


def _slice(start: float, end: float | None) -> str:
    """Return what tells slices of a file apart."""
    return "" if end is None and not start else f"@{start}-{'' if end is None else end}"
