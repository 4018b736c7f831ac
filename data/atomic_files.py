"""Small files that are either whole or absent, also after a power cut."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from mmap import ACCESS_READ, mmap
from operator import methodcaller
from pathlib import Path
from typing import Any

TO_JSON = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would build one a row


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all that is in it are on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_lines(path, (text,))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text, line by line: what is written is never held together."""
    write_bytes(path, (line.encode() for line in lines))


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file under another name and rename it: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            file.writelines(parts)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_lines(path, (TO_JSON(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one JSON object a line, in one write: lines of several processes do not mix.

    Raises:
        OSError: the disk is full; nothing is appended then.
    """
    text = "".join(TO_JSON(row) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        if file.write(text) != len(text):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def mended(lines: Iterable[str]) -> Iterator[str]:
    """Return lines with U+FFFD for NUL, which crashes leave in files.

    Only the row that holds one is lost then: its text is dropped as damaged, or its audio is
    missing.
    """
    return map(methodcaller("replace", "\0", "\N{REPLACEMENT CHARACTER}"), lines)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; a last line that a crash cut off is none."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def cut_jsonl(path: Path, after: Callable[[dict[str, Any]], bool]) -> None:
    """Cut off the rows of a JSON Lines file from the first one on that comes after something.

    It looks at some thirty rows of any number, and writes none. A last line that a crash cut off
    goes too.

    Args:
        path: the file; made where there is none. Its rows are in order.
        after: tells of a row whether it is to go; then so are all that follow.
    """
    with path.open("a+b") as file:
        if file.tell() == 0:
            return
        with mmap(file.fileno(), 0, access=ACCESS_READ) as lines:
            kept = _bytes_before(lines, after)
        file.truncate(kept)


def _bytes_before(lines: mmap, after: Callable[[dict[str, Any]], bool]) -> int:
    kept, end = 0, lines.rfind(b"\n") + 1  # what is sure to stay, and where what goes begins
    while kept < end:
        middle = (kept + end) // 2
        begin = max(kept, lines.rfind(b"\n", kept, middle) + 1)
        stop = lines.find(b"\n", middle) + 1
        if after(json.loads(lines[begin:stop])):
            end = begin
        else:
            kept = stop
    return kept
