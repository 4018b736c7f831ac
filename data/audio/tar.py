"""Files inside tar archives, read in any order without unpacking them.

A plain tar is read at an offset: one seek, one read. A gzip cannot be entered in its middle, but
indexed_gzip can enter where the state of the decompressor was kept: at every megabyte, 4 % of the
archive. Wav clips of 11 s in random order, decoded on one core: 3,100 s of audio a second from a
gzip, as from mp3 files of 48 kHz; 23,000 from a plain tar, 29,000 from files.

What is known of an archive lies in Hugging Face's cache (HF_HOME), never beside the archive.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import cached_assets_path

from data.atomic_files import read_jsonl, write_bytes, write_jsonl
from data.errors import InputError, disk_failed

KIND = "tar:"  # what the locator of a file in an archive begins with
ERRORS = "backslashreplace"  # of names that are not UTF-8: they stay different
GZIP = b"\x1f\x8b"  # what a gzip begins with, whatever it is called: RFC 1952
SPACING = 2**20  # bytes between entries; a quarter of it is 1.7 times as fast and 4 times as large
CHUNK = 2**18  # compressed bytes read at a time: a clip is about as large
OPEN = 32  # gzips whose entries a process holds: 16 MB for one of 450 MB
MAX_BYTES = 2**30  # of a file, which is held in memory whole
DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int  # of its content: bytes from the beginning of the archive, uncompressed
    size: int  # bytes


def members(archive: Path) -> dict[str, Member]:
    """Return the files of an archive by name: looked for once, and remembered.

    Links, devices and names that climb out are not among them.

    Raises:
        InputError: it is no tar, or is damaged or cut short; the cache cannot be written.
    """
    try:
        saved = _saved(archive, "jsonl")
        found = _recalled(saved)
        if found is None:
            found = {member.name: member for member in _walk(archive)}  # the last of a name counts
            write_jsonl(saved, (member._asdict() for member in found.values()))
    except DAMAGED as error:
        if isinstance(error, OSError) and disk_failed(error):
            raise
        raise InputError(
            f"{archive}: cannot be read to its end ({error}): copy it again"
        ) from error
    return found


def locator(archive: Path, member: Member, revision: str | None = None) -> str:
    """Return what Utterance.audio says of a file in an archive, and of which commit it came."""
    parts = {"path": str(archive.absolute()), **member._asdict()}
    told = {"revision": revision} if revision else {}
    return KIND + json.dumps({**parts, **told}, ensure_ascii=False)


def located(audio: str) -> tuple[str, Member]:
    """Return the archive and the file in it that a locator() names."""
    parts = json.loads(audio.removeprefix(KIND))
    return parts["path"], Member(parts["name"], parts["offset"], parts["size"])


def fetch(archive: str, member: Member) -> bytes:
    """Return the content of a file in an archive.

    Raises:
        OSError: the archive is gone, has changed since, or the file is too large.
    """
    if member.size > MAX_BYTES:
        raise OSError(f"{member.size} bytes in an archive; {MAX_BYTES} are held: unpack it")
    block = _read(archive, member.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + member.size)
    header, content = block[: tarfile.BLOCKSIZE], block[tarfile.BLOCKSIZE :]
    if not _heads(header, member) or len(content) < member.size:
        raise OSError(f"{archive} has changed: {member.name} lies there no more")
    return content


def contents(archive: Path, wanted: Iterable[Member]) -> Iterator[tuple[Member, bytes]]:
    """Yield some files with their content, from the archive's beginning to its end.

    Raises:
        OSError: the archive is gone.
    """
    with _opened(str(archive)) as file:
        for member in sorted(wanted, key=lambda each: each.offset):
            file.seek(member.offset)
            yield member, file.read(member.size)


def _recalled(saved: Path) -> dict[str, Member] | None:
    """Return what was remembered; what cannot be read costs a walk, and no more."""
    try:
        return {row["name"]: Member(**row) for row in read_jsonl(saved)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _walk(archive: Path) -> Iterator[Member]:
    with (
        _opened(str(archive)) as file,
        tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors=ERRORS) as tar,
    ):
        for each in tar:
            climbs = each.name.startswith("/") or ".." in PurePosixPath(each.name).parts
            if each.isreg() and not each.issparse() and not climbs:
                yield Member(each.name, each.offset_data, each.size)
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"no mark of its end at byte {tar.offset}")  # tarfile does not mind


def _heads(header: bytes, member: Member) -> bool:
    """Tell whether a header is this file's; a long name is not in it, or not whole."""
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", ERRORS)
    except tarfile.HeaderError:
        return False
    long = len(member.name) > tarfile.LENGTH_NAME or not member.name.isascii()
    return found.size == member.size and (found.name == member.name or long)


def _read(archive: str, offset: int, size: int) -> bytes:
    if _is_gzip(archive):
        # past Python's buffer, which would read twice, each time from an entry on
        gzip = _held(archive, _saved(Path(archive), "entries"))
        content: bytes = gzip.raw.pread(size, offset)
        return content
    with open(archive, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _opened(archive: str) -> Any:
    """Return an archive as a file that is not compressed."""
    if _is_gzip(archive):
        return _gzip(archive, _saved(Path(archive), "entries"))
    return open(archive, "rb")


@cache
def _is_gzip(archive: str) -> bool:
    with open(archive, "rb") as file:
        return file.read(len(GZIP)) == GZIP


def _gzip(archive: str, entries: Path) -> Any:
    """Open a gzip for reading anywhere; the file itself is open during each reading alone."""
    from indexed_gzip import IndexedGzipFile  # here: it takes a tenth of a second, and few need it

    if not entries.is_file():
        with IndexedGzipFile(archive, spacing=SPACING) as file:
            file.build_full_index()  # to the end, where the checksum is
            exported = io.BytesIO()
            file.export_index(fileobj=exported)
        write_bytes(entries, (exported.getvalue(),))
    return IndexedGzipFile(
        archive, index_file=str(entries), readbuf_size=CHUNK, buffer_size=SPACING
    )


# processes that are forked share its memory, and no position in a file: none is open
_held = lru_cache(maxsize=OPEN)(_gzip)


def _saved(archive: Path, kind: str) -> Path:
    """Return the file of the cache that holds what is known of an archive as it is now.

    Raises:
        InputError: the cache's folder cannot be made.
        OSError: there is no such archive.
    """
    status = os.stat(archive)
    name = hashlib.sha256(os.path.realpath(archive).encode()).hexdigest()[:16]
    try:
        folder = cached_assets_path("whisper-loop", namespace="archives", subfolder=name)
    except (OSError, ValueError) as error:  # ValueError: a file lies where a folder should
        raise InputError(
            f"HF_HOME: the index of {archive} cannot be kept there: {error}; "
            "set it to a folder that can be written"
        ) from error
    return folder / f"{status.st_size}-{status.st_mtime_ns}.{kind}"
