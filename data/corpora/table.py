"""Manifests in JSON Lines or CSV, with one row per utterance.

Columns: path, text; optionally id, seconds, start, end, language, speaker, age, gender, accent,
split. A folder has SPLIT.jsonl or SPLIT.csv; a single file has a column `split`, or is named after
its only split.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.corpora.find_files import has_suffix
from data.corpora.text_tables import read_rows, seconds_of
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "*.jsonl or *.csv"
KNOWN = {"id", "path", "text", "seconds", "start", "end", "language", "split"}
KNOWN |= {"speaker", "age", "gender", "accent"}


def matches(path: Path) -> bool:
    """Return whether a path is a table, or a folder of tables."""
    return path.is_file() or has_suffix(path, ".jsonl", ".csv")


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the utterances of a split. Paths are relative to the manifest's folder, or audio_root.

    Raises:
        InputError: a file, a column or a value is missing or wrong.
    """
    source = _file_of(Path(corpus), split)
    root = _root(config, corpus) or source.parent
    named_after = source.stem == split
    splits = set()
    for line, row in read_rows(source):
        if not isinstance(row, dict):
            raise InputError(
                f"{source}, line {line}: expected an object with path and text, got {row!r}"
            )
        row_split = str(row.get("split", split))
        splits.add(row_split)
        if row_split != split:
            continue
        if "split" not in row and not named_after:
            raise InputError(
                f"{source}: has no column 'split' and is not named {split}: "
                f"add the column, or make a folder with {split}.jsonl"
            )
        yield _utterance(source, line, row, root)
    if splits and split not in splits:
        raise InputError(
            f"{source}: no row has split {split!r}; its splits: {', '.join(sorted(splits))}"
        )


def _root(config: DataConfig, corpus: str) -> Path | None:
    roots = {source.name: source.audio_root for source in config.sources}
    root = roots.get(corpus)
    if root is None:
        return None
    if not Path(root).is_dir():
        raise InputError(
            f"{root}: no such folder; set data.audio_root to the folder of the audio of {corpus}"
        )
    return Path(root)


def _file_of(corpus: Path, split: str) -> Path:
    if corpus.is_file():
        return corpus
    for suffix in (".jsonl", ".csv"):
        if (corpus / f"{split}{suffix}").is_file():
            return corpus / f"{split}{suffix}"
    names = (
        ", ".join(sorted(p.name for p in corpus.glob("*.*")))
        if corpus.is_dir()
        else "no such folder"
    )
    raise InputError(f"{corpus / split}.jsonl: no such file, nor .csv; found: {names}")


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
        audio=resolve_inside(root, str(row["path"]), source),
        text=str(row.get("text", "")).strip(),
        seconds=seconds if end is None else end - start,
        language=_text(row, "language"),
        speaker=_text(row, "speaker"),
        start=start,
        end=end,
        age=_text(row, "age"),
        gender=_text(row, "gender"),
        accent=_text(row, "accent"),
    )


def _number(row: dict[str, Any], key: str, where: str) -> float | None:
    return None if row.get(key) is None else seconds_of(row[key], f"{where}: {key}")


def _text(row: dict[str, Any], key: str) -> str | None:
    return str(row[key]) if key in row else None


def _slice(start: float, end: float | None) -> str:
    """Return a suffix that makes the ids of slices of one file unique."""
    return "" if end is None and not start else f"@{start}-{'' if end is None else end}"
