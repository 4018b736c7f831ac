"""Folders that are complete or absent, with a manifest of every file's size and sha256.

The order makes it safe: all files are on disk before the manifest is written, the manifest before
the folder gets its final name, and the folder before an older one is deleted. On file systems that
cannot rename folders, files are moved one by one; the manifest is last, and a folder without it
counts as incomplete.
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
PENDING = ".pending-"  # prefix of a folder that is being written, or was left by a crash
TRASH = ".trash-"  # prefix of a folder that is being deleted, or was left by a crash
# errors of os.rename() on file systems that cannot rename folders: EMFILE on gcsfuse, EXDEV on
# overlays, the others on other mounts of object stores
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
    """Flush the files of a folder to disk, then write its manifest.

    Args:
        pending: the folder.
        known: digests by file name that are already known; these files are not read again.
    """
    sync_tree(pending)
    files = {str(path.relative_to(pending)): path for path in _walk(pending) if path.is_file()}
    known, names = known or {}, sorted(files.keys() - {MANIFEST})
    digests = {name: known.get(name) or digest(files[name]) for name in names}
    write_json(pending / MANIFEST, digests)


def move(source: Path, target: Path, last: str = MANIFEST) -> None:
    """Rename a folder, or move its files one by one where folders cannot be renamed.

    Args:
        source: the folder; all of its files are on disk.
        target: new path. Files may be there already, but not `last`.
        last: the file that is moved last; without it the target counts as incomplete.
    """
    if not _try_rename(source, target):
        for path in sorted(_walk(source), key=lambda path: path == source / last):
            destination = target / path.relative_to(source)
            if path.is_dir():
                destination.mkdir(parents=True, exist_ok=True)
                continue
            if path == source / last:
                sync_tree(target)
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, destination)
        sync(target)
        shutil.rmtree(source, ignore_errors=True)
    sync(target.parent)


def hardlink_tree(source: Path, folder: Path) -> None:
    """Hard-link the files of a folder into another one; copy them where links are unsupported.

    The copy stays complete when the source is replaced.

    Raises:
        OSError: a file was deleted meanwhile, or the disk is full.
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
        except OSError:  # hard links are not supported
            shutil.copy2(path, target)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} was replaced while it was being copied")


def rename_or_copy(folder: Path, target: Path) -> None:
    """Rename a complete folder, or copy it; one of both paths is complete at every moment."""
    if not _try_rename(folder, target):
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MANIFEST))
        sync_tree(target)
        shutil.copy2(folder / MANIFEST, target)
        sync(target / MANIFEST)
        discard(folder)


def discard(folder: Path, last: str = MANIFEST) -> None:
    """Rename a folder, then delete it, so that no half-deleted folder has its name.

    Where it cannot be renamed, the file `last` is deleted first: without it the folder counts as
    incomplete.
    """
    trash = folder.with_name(f"{TRASH}{folder.name.removeprefix(PENDING)}")
    shutil.rmtree(trash, ignore_errors=True)
    if not folder.exists():
        return
    if not _try_rename(folder, trash):
        (folder / last).unlink(missing_ok=True)
        sync(folder)
        trash = folder
    shutil.rmtree(trash, ignore_errors=True)


def delete_leftovers(parent: Path) -> None:
    """Delete folders that a crash interrupted while they were written, moved or deleted."""
    for pending in parent.glob(f"{PENDING}*"):
        target = parent / pending.name.removeprefix(PENDING)
        if not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(pending, ignore_errors=True)
    for leftover in parent.glob(f"{TRASH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _try_rename(source: Path, target: Path) -> bool:
    """Rename a folder; return False if the file system can only rename files."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in NO_FOLDER_RENAME:
            raise
        return False
    return True


def verify(folder: Path) -> None:
    """Compare every file of a folder with its manifest.

    Raises:
        InputError: a file is missing, differs, is a link, or is not in the manifest.
    """
    expected = read_manifest(folder)
    present = {str(path.relative_to(folder)): path for path in _walk(folder) if not path.is_dir()}
    for name in sorted((present.keys() | expected.keys()) - {MANIFEST}):
        path = present.get(name)
        if path is None:
            raise InputError(f"{folder / name}: missing")
        if name not in expected:  # load_state would load some of them
            raise InputError(f"{path}: not in {MANIFEST}")
        if path.is_symlink() or digest(path) != expected[name]:
            raise InputError(f"{path}: damaged: it differs from {MANIFEST}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the digests in a folder's manifest, by file name.

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


def check_free_space(folder: Path, needed: int) -> None:
    """Check that a disk has enough free space.

    Args:
        folder: on the disk.
        needed: bytes.

    Raises:
        OSError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, str(folder))
