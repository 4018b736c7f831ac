"""Tables and lists of a corpus as they lie on disk: CSV, JSON Lines, lines of a key and a value."""

import csv
import json
import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from data.atomic_files import mended
from data.errors import InputError

UTF_8 = "utf-8-sig"  # with or without a byte order mark
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # in JSON, half of an emoji that was cut in two


def decoded(content: bytes, encodings: Sequence[str] = (UTF_8,)) -> str | None:
    """Return a text in the first encoding that fits, or in UTF-16 where it says so, or None."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encodings = ("utf-16",)
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return None


def read_text(path: Path, encodings: Sequence[str] = (UTF_8,)) -> tuple[str, str]:
    """Return the text of a file, and why there is none: a corpus may do without one of many."""
    try:
        text = decoded(path.read_bytes(), encodings)
    except OSError:
        return "", "text cannot be read"
    return ("", "text in an unknown encoding") if text is None else (text, "")


def read_lines(path: Path, encodings: Sequence[str] = (UTF_8,)) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold more than blanks, with their numbers.

    Raises:
        InputError: there is no such file, or it is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, though the corpus needs it: unpack the corpus again"
        ) from error
    text = decoded(content, encodings)
    if text is None:
        known = " or ".join(name.removesuffix("-sig").upper() for name in encodings)
        raise InputError(f"{path}: not a text in {known}: write it anew in UTF-8")
    for number, line in enumerate(mended(text.split("\n")), 1):
        if line.strip():
            yield number, line.strip()


def read_pairs(path: Path) -> dict[str, str]:
    """Return what follows the first word of each line, by that word.

    Raises:
        InputError: as read_lines(), or a word begins two lines.
    """
    pairs: dict[str, str] = {}
    for number, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        if key in pairs:
            raise InputError(
                f"{path}, line {number}: {key!r} is listed twice: remove the line that is wrong"
            )
        pairs[key] = rest[0] if rest else ""
    return pairs


def read_rows(source: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .csv or .jsonl, with the numbers of their lines.

    A cell or a key without a value is absent. A row of JSON may be other than an object.

    Raises:
        InputError: it cannot be read as what its suffix says.
    """
    with source.open(encoding=UTF_8, newline="") as file:
        try:
            yield from _csv_rows(file) if source.suffix == ".csv" else _json_rows(file)
        except ValueError as error:
            raise InputError(f"{source}: cannot be read as {source.suffix[1:]}: {error}") from error


def seconds_of(value: Any, what: str) -> float:
    """Return a number of seconds.

    Args:
        value: as a table holds it.
        what: the file, the line and the key, for the error.

    Raises:
        InputError: it is no number, less than 0, or without end.
    """
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a number of seconds, got {value!r}") from error
    if not 0 <= number < math.inf:
        raise InputError(f"{what} must be a number of seconds, 0 or more, got {value!r}")
    return number


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


def _json_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
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
