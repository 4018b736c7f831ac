"""Read a corpus's tables and lists: CSV, JSON Lines, and lines of a key and a value."""

import csv
import json
import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from data.atomic_files import replace_nul
from data.errors import InputError

UTF_8 = "utf-8-sig"  # with or without a byte order mark
NO_CHARACTER = re.compile(
    "[\0\ud800-\udfff]"
)  # surrogates: in JSON, half of an emoji that was cut in two


def decoded(content: bytes, encodings: Sequence[str] = (UTF_8,)) -> str | None:
    """Decode with the first valid encoding, or UTF-16 if there is a BOM; None if all fail."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encodings = ("utf-16",)
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return None


def read_text(path: Path, encodings: Sequence[str] = (UTF_8,)) -> tuple[str, str]:
    """Return the text of a file, or an empty one with the fault, so that reading can continue."""
    try:
        text = decoded(path.read_bytes(), encodings)
    except OSError:
        return "", "text cannot be read"
    return ("", "text in an unknown encoding") if text is None else (text, "")


def read_lines(path: Path, encodings: Sequence[str] = (UTF_8,)) -> Iterator[tuple[int, str]]:
    """Yield non-blank lines with their numbers.

    Raises:
        InputError: the file is missing or has another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, but the corpus needs it: unpack the corpus again"
        ) from error
    text = decoded(content, encodings)
    if text is None:
        known = " or ".join(name.removesuffix("-sig").upper() for name in encodings)
        raise InputError(f"{path}: not text in {known}: convert it to UTF-8")
    for number, line in enumerate(replace_nul(text.split("\n")), 1):
        if line.strip():
            yield number, line.strip()


def read_pairs(path: Path) -> dict[str, str]:
    """Return the rest of each line by its first word.

    Raises:
        InputError: as read_lines(), or two lines have the same first word.
    """
    pairs: dict[str, str] = {}
    for number, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        if key in pairs:
            raise InputError(
                f"{path}, line {number}: {key!r} is listed twice: remove the wrong line"
            )
        pairs[key] = rest[0] if rest else ""
    return pairs


def read_rows(source: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .csv or .jsonl with their line numbers.

    Empty cells and null values are left out. A row of JSON may not be an object.

    Raises:
        InputError: the file cannot be parsed as its suffix demands.
    """
    with source.open(encoding=UTF_8, newline="") as file:
        try:
            yield from _csv_rows(file) if source.suffix == ".csv" else _json_rows(file)
        except ValueError as error:
            raise InputError(f"{source}: cannot be read as {source.suffix[1:]}: {error}") from error


def seconds_of(value: Any, what: str) -> float:
    """Parse a number of seconds.

    Args:
        value: a table's cell.
        what: file, line and key, for the error.

    Raises:
        InputError: it is not a number, is negative, or not finite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a number of seconds, got {value!r}") from error
    if not 0 <= number < math.inf:
        raise InputError(f"{what} must be a number of seconds, 0 or more, got {value!r}")
    return number


def _csv_rows(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows without empty cells. A stray quote is an error: it would swallow further rows."""
    table = csv.DictReader(replace_nul(file), strict=True)
    try:
        for row in table:
            cells = {key: value for key, value in row.items() if value not in ("", None)}
            yield table.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"line {table.line_num}: {error}; a quote within a quoted cell must be doubled"
        ) from error


def _json_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(replace_nul(file), 1):
        if line.strip():
            try:
                yield number, _plain(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg} at column {error.colno}") from error


def _plain(row: Any) -> Any:
    """Remove keys with null, and replace invalid characters by U+FFFD."""
    if not isinstance(row, dict):
        return row
    texts = {k: NO_CHARACTER.sub("\ufffd", v) for k, v in row.items() if isinstance(v, str)}
    return {k: texts.get(k, v) for k, v in row.items() if v is not None}
