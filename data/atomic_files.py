"""Write and read text, JSON and JSON Lines files atomically, safe against power loss."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from mmap import ACCESS_READ, mmap
from operator import methodcaller
from pathlib import Path
from typing import Any

TO_JSON = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps() builds an encoder per call


def sync(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything below it to disk (fsync)."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8 atomically."""
    write_lines(path, (text,))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text line by line, atomically, without holding all of it in memory."""
    write_bytes(path, (line.encode() for line in lines))


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write a temporary file and rename it, so that readers never see a partial file."""
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
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    write_lines(path, (TO_JSON(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one JSON object per line, in one write: lines of several processes do not interleave.

    Raises:
        OSError: the disk is full; the file is left unchanged.
    """
    text = "".join(TO_JSON(row) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        if file.write(text) != len(text):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def replace_nul(lines: Iterable[str]) -> Iterator[str]:
    """Return lines with each NUL replaced by U+FFFD; crashes leave NULs in files.

    Only the affected row is lost: its transcript is dropped as damaged, or its audio is missing.
    """
    return map(methodcaller("replace", "\0", "\N{REPLACEMENT CHARACTER}"), lines)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; skip an incomplete last line, as a crash leaves."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def truncate_jsonl(path: Path, remove: Callable[[dict[str, Any]], bool]) -> None:
    """Truncate a JSON Lines file before the first row that satisfies a predicate.

    The row is found by binary search: some thirty rows are parsed, and none is written. An
    incomplete last line, as a crash leaves, is removed too.

    Args:
        path: the file, with rows in order. It is created if it does not exist.
        remove: returns whether a row is to be removed. If it is, so are all rows after it.
    """
    with path.open("a+b") as file:
        if file.tell() == 0:
            return
        with mmap(file.fileno(), 0, access=ACCESS_READ) as lines:
            size = _bytes_to_keep(lines, remove)
        file.truncate(size)


def _bytes_to_keep(lines: mmap, remove: Callable[[dict[str, Any]], bool]) -> int:
    kept, end = 0, lines.rfind(b"\n") + 1  # keep all before `kept`, remove all from `end` on
    while kept < end:
        middle = (kept + end) // 2
        begin = max(kept, lines.rfind(b"\n", kept, middle) + 1)
        stop = lines.find(b"\n", middle) + 1
        if remove(json.loads(lines[begin:stop])):
            end = begin
        else:
            kept = stop
    return kept
