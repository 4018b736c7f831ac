"""A folder as numbered parts of a size, and back: for transfers that take no more at a time.

    python tests/benchmark/parts.py split FOLDER --out=PARTS --megabytes=24
    python tests/benchmark/parts.py join PARTS --out=FOLDER

parts.json beside the parts has the size and the sha256 of every file and of every part. It needs
Python alone, so it can be copied to a machine by itself.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST = "parts.json"
BLOCK = 2**20  # bytes read at a time


class PartsError(Exception):
    """What cannot be done, in one sentence."""


def main(arguments: Sequence[str]) -> int:
    """Split or join; return the exit status."""
    parser = argparse.ArgumentParser(description="A folder as numbered parts of a size, and back.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    cut = verbs.add_parser("split", help="write a folder's files as parts")
    cut.add_argument("folder", type=Path)
    cut.add_argument("--megabytes", type=float, default=24.0, help="of a part, at most")
    back = verbs.add_parser("join", help="write the folder that parts hold")
    back.add_argument("folder", type=Path, metavar="PARTS")
    for each in (cut, back):
        each.add_argument("--out", type=Path, required=True, help="a folder that does not exist")
    asked = parser.parse_args(arguments)
    try:
        if asked.verb == "split":
            print(f"{split(asked.folder, asked.out, asked.megabytes)} parts in {asked.out}")
        else:
            print(f"{join(asked.folder, asked.out)} files in {asked.out}")
    except PartsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def split(folder: Path, out: Path, megabytes: float) -> int:
    """Write all files of a folder, one after another, as parts; return how many.

    Raises:
        PartsError: there is nothing to split, or no place to write to.
    """
    _refuse_existing(out)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise PartsError(f"{folder}: holds no files")
    size = int(megabytes * 1e6)
    if size < 1:
        raise PartsError(f"--megabytes must be greater than 0, got {megabytes}")
    out.mkdir(parents=True)
    told: dict[str, Any] = {"files": [], "parts": []}
    for path in files:
        name = path.relative_to(folder).as_posix()
        told["files"].append({"name": name, "bytes": path.stat().st_size, "sha256": sha256(path)})
    stream = _blocks(files)
    rest = b""
    while True:
        part = out / f"part-{len(told['parts']):04d}"
        rest = _write(part, rest, stream, size)
        told["parts"].append({"name": part.name, "sha256": sha256(part)})
        if not rest:
            break
    (out / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")
    return len(told["parts"])


def _write(part: Path, rest: bytes, stream: Iterator[bytes], size: int) -> bytes:
    """Write a part of a size at most; return what is left over of the last block."""
    room = size
    with part.open("wb") as file:
        while room:
            block = rest or next(stream, b"")
            if not block:
                return b""
            file.write(block[:room])
            rest = block[room:]
            room -= min(room, len(block))
    return rest or next(stream, b"")


def join(parts: Path, out: Path) -> int:
    """Write the files that parts hold, verified; return how many.

    Raises:
        PartsError: a part is missing or damaged, or there is no place to write to.
    """
    _refuse_existing(out)
    path = parts / MANIFEST
    if not path.is_file():
        raise PartsError(f"{path}: no such file; give the folder that `split` wrote")
    told = json.loads(path.read_text(encoding="utf-8"))
    for each in told["parts"]:
        part = parts / each["name"]
        if not part.is_file():
            raise PartsError(f"{part}: is missing; copy it again")
        if sha256(part) != each["sha256"]:
            raise PartsError(f"{part}: is damaged (its sha256 is another); copy it again")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    stream, rest = _blocks([parts / each["name"] for each in told["parts"]]), b""
    for each in told["files"]:
        to = unfinished / each["name"]
        if not to.resolve().is_relative_to(unfinished.resolve()):
            raise PartsError(f"{path}: {each['name']} would be written outside of {out}")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as file:
            rest = _copy(file, rest, stream, each["bytes"])
        if sha256(to) != each["sha256"]:
            raise PartsError(f"{to}: is not what was split; split and copy again")
    unfinished.rename(out)
    return len(told["files"])


def _copy(file: BinaryIO, rest: bytes, stream: Iterator[bytes], size: int) -> bytes:
    """Write so many bytes; return what is left over of the last block."""
    while size:
        block = rest or next(stream, b"")
        if not block:
            return b""
        file.write(block[:size])
        rest = block[size:]
        size -= min(size, len(block))
    return rest


def _blocks(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield the bytes of files, one after another."""
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block


def sha256(path: Path) -> str:
    """Return a file's hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise PartsError(f"{out}: exists already; name another folder, or remove it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
