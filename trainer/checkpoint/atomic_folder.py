"""A folder that is complete or absent: sealed with the size and the hash of every file.

The order is what makes it safe: all files are on the disk before the manifest, the manifest before
the folder has its name, and the name before an older folder goes. Where the file system renames no
folders, the files get their places one by one, and last the manifest, without which none is whole.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from data.atomic_files import sync, sync_tree, write_json
from data.errors import InputError

MANIFEST = "manifest.json"
PENDING = ".pending-"  # being written, or left by a crash
TRASH = ".trash-"  # being deleted, or left by a crash
# what a rename of a folder fails with where files alone have names: gcsfuse says EMFILE, overlays
# EXDEV, other mounts of object stores the rest
NO_FOLDER_RENAME = (
    errno.EMFILE,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EXDEV,
    errno.EIO,
    errno.EPERM,
)


def write_manifest(pending: Path, known: dict[str, Any] | None = None) -> None:
    """Put all of a folder on the disk, and then its manifest.

    Args:
        pending: the folder.
        known: digests of files that were sealed before, which are not read again.
    """
    sync_tree(pending)
    files = {str(path.relative_to(pending)): path for path in _walk(pending) if path.is_file()}
    known, told = known or {}, files.keys() - {MANIFEST}
    digests = {name: known.get(name) or digest(files[name]) for name in sorted(told)}
    write_json(pending / MANIFEST, digests)


def move(source: Path, target: Path, last: str = MANIFEST) -> None:
    """Give a folder a name that none has, or file by file where folders cannot be renamed.

    Args:
        source: the folder; all of it is on the disk.
        target: its new name. Part of it may be there already, without `last`.
        last: the file without which nobody takes the target for whole.
    """
    if not _renamed(source, target):
        for path in sorted(_walk(source), key=lambda path: path == source / last):
            place = target / path.relative_to(source)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            if path == source / last:
                sync_tree(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, place)
        sync(target)
        shutil.rmtree(source, ignore_errors=True)
    sync(target.parent)


def hardlink_tree(source: Path, folder: Path) -> None:
    """Copy a folder by hard links, where the disk has them: it stays whole when it is replaced.

    Raises:
        OSError: a file went away meanwhile, or the disk is full.
    """
    for path in _walk(source):
        target = folder / path.relative_to(source)
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileNotFoundError:
            raise
        except OSError:  # no links here
            shutil.copy2(path, target)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} was replaced while it was copied")


def rename_or_copy(folder: Path, target: Path) -> None:
    """Give a whole folder another name; under one of both names it is whole at every moment."""
    if not _renamed(folder, target):
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MANIFEST))
        sync_tree(target)
        shutil.copy2(folder / MANIFEST, target)
        sync(target / MANIFEST)
        discard(folder)


def discard(folder: Path, last: str = MANIFEST) -> None:
    """Delete a folder under another name: nobody finds it half deleted.

    Where it cannot be renamed, the file goes first without which it is not whole.
    """
    trash = folder.with_name(f"{TRASH}{folder.name.removeprefix(PENDING)}")
    shutil.rmtree(trash, ignore_errors=True)
    if not folder.exists():
        return
    if not _renamed(folder, trash):
        (folder / last).unlink(missing_ok=True)
        sync(folder)
        trash = folder
    shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what a crash left in the middle of being written, moved or deleted."""
    for pending in parent.glob(f"{PENDING}*"):
        target = parent / pending.name.removeprefix(PENDING)
        if not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(pending, ignore_errors=True)
    for leftover in parent.glob(f"{TRASH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder; return False where the file system renames files alone."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in NO_FOLDER_RENAME:
            raise
        return False
    return True


def verify(folder: Path) -> None:
    """Compare every file with the manifest, before any of them is read.

    Raises:
        InputError: one is missing, differs, is a link, or is not in the manifest.
    """
    expected = read_manifest(folder)
    present = {str(path.relative_to(folder)): path for path in _walk(folder) if not path.is_dir()}
    for name in sorted((present.keys() | expected.keys()) - {MANIFEST}):
        path = present.get(name)
        if path is None:
            raise InputError(f"{folder / name}: missing")
        if name not in expected:  # load_state would take some of these for its own
            raise InputError(f"{path}: not in {MANIFEST}")
        if path.is_symlink() or digest(path) != expected[name]:
            raise InputError(f"{path}: damaged: not what was written")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the digest of each file of a sealed folder, by its name.

    Raises:
        InputError: the manifest is missing or damaged.
    """
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST}: missing or damaged ({error})") from error


def digest(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its sha256."""
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _walk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def require_free(folder: Path, needed: int) -> None:
    """Check a disk before much is written to it.

    Raises:
        OSError: fewer bytes are free than needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, str(folder))
