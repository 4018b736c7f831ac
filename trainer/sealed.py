"""A folder that is complete or absent: sealed with the size and the hash of every file.

The order is what makes it safe: all files are on the disk before the manifest, the manifest before
the folder has its name, and the name before an older folder goes.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import sync, sync_tree, write_json

MANIFEST = "manifest.json"
PENDING = ".pending-"  # being written, or left by a crash
TRASH = ".trash-"  # being deleted, or left by a crash


def seal(pending: Path, target: Path) -> None:
    """Put all of a folder on the disk, describe it, and give it its name."""
    sync_tree(pending)
    files = [path for path in _walk(pending) if path.is_file()]
    write_json(pending / MANIFEST, {str(f.relative_to(pending)): digest(f) for f in files})
    os.rename(pending, target)
    sync(target.parent)


def discard(folder: Path) -> None:
    """Delete a folder under another name: nobody finds it half deleted."""
    trash = folder.with_name(f"{TRASH}{folder.name.removeprefix(PENDING)}")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what a crash left in the middle of being written or deleted."""
    for leftover in (*parent.glob(f"{PENDING}*"), *parent.glob(f"{TRASH}*")):
        shutil.rmtree(leftover, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compare every file with the manifest, before any of them is read.

    Raises:
        InputError: one is missing, differs, is a link, or is not in the manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = dict(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST}: missing or damaged ({error})") from error
    present = {str(path.relative_to(folder)): path for path in _walk(folder) if not path.is_dir()}
    for name in sorted((present.keys() | expected.keys()) - {MANIFEST}):
        path = present.get(name)
        if path is None:
            raise InputError(f"{folder / name}: missing")
        if name not in expected:  # load_state would take some of these for its own
            raise InputError(f"{path}: not in {MANIFEST}")
        if path.is_symlink() or digest(path) != expected[name]:
            raise InputError(f"{path}: damaged: not what was written")


def digest(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its sha256."""
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _walk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
