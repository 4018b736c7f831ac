"""Read members of tar archives in any order, without unpacking them.

A plain tar needs one seek and one read per member. A gzip has no random access, but indexed_gzip
resumes from saved states of the decompressor: one per megabyte, 4 % of the archive's size. Decoding
wav clips of 11 s in random order on one core yields 3,100 s of audio per second from a gzip, as
from mp3 files of 48 kHz; 23,000 from a plain tar, and 29,000 from files.

The index of an archive is stored in Hugging Face's cache (HF_HOME), never next to the archive.
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
from data.errors import InputError, is_disk_error

TAR_PREFIX = "tar:"  # prefix of the locator of an archive's member
NAME_ERRORS = "backslashreplace"  # for names that are not UTF-8, so that they stay distinct
GZIP_MAGIC = b"\x1f\x8b"  # first bytes of a gzip, whatever its suffix: RFC 1952
SPACING = (
    2**20
)  # bytes between saved states; a quarter is 1.7 times as fast, and its index 4 times as large
CHUNK = 2**18  # compressed bytes per read, about the size of a clip
MAX_OPEN_GZIPS = 32  # gzips whose index a process keeps: 16 MB for a gzip of 450 MB
MAX_BYTES = 2**30  # of a member, which is read into memory
DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


class Member(NamedTuple):
    """A file in a tar archive."""

    name: str
    offset: int  # of its content in the uncompressed archive, in bytes
    size: int  # bytes


def members(archive: Path) -> dict[str, Member]:
    """Return the files of an archive by name; the result is cached on disk.

    Links, devices, and names that lead out of the archive are left out.

    Raises:
        InputError: the archive is not a tar, or is damaged; or the cache cannot be written.
    """
    try:
        saved = _cache_path(archive, "jsonl")
        files = _read_index(saved)
        if files is None:
            # the last of equal names counts
            files = {member.name: member for member in _walk(archive)}
            write_jsonl(saved, (member._asdict() for member in files.values()))
    except DAMAGED as error:
        if isinstance(error, OSError) and is_disk_error(error):
            raise
        message = f"{archive}: cannot be read to its end ({error}): copy it again"
        raise InputError(message) from error
    return files


def locator(archive: Path, member: Member, revision: str | None = None) -> str:
    """Return Utterance.audio for a member, with the archive's commit on the Hub, if any."""
    parts = {"path": str(archive.absolute()), **member._asdict()}
    origin = {"revision": revision} if revision else {}
    return TAR_PREFIX + json.dumps({**parts, **origin}, ensure_ascii=False)


def parse_locator(audio: str) -> tuple[str, Member]:
    """Return the archive and the member of a locator()."""
    parts = json.loads(audio.removeprefix(TAR_PREFIX))
    return parts["path"], Member(parts["name"], parts["offset"], parts["size"])


def fetch(archive: str, member: Member) -> bytes:
    """Return the content of a member.

    Raises:
        OSError: the archive is missing or has changed, or the member is too large.
    """
    if member.size > MAX_BYTES:
        raise OSError(f"{member.size} bytes in an archive; the limit is {MAX_BYTES}: unpack it")
    block = _read(archive, member.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + member.size)
    header, content = block[: tarfile.BLOCKSIZE], block[tarfile.BLOCKSIZE :]
    if not _is_header_of(header, member) or len(content) < member.size:
        raise OSError(f"{archive} has changed: {member.name} is no longer there")
    return content


def contents(archive: Path, wanted: Iterable[Member]) -> Iterator[tuple[Member, bytes]]:
    """Yield members with their content, in the archive's order; OSError if it is missing."""
    with _open_archive(str(archive)) as file:
        for member in sorted(wanted, key=lambda entry: entry.offset):
            file.seek(member.offset)
            yield member, file.read(member.size)


def _read_index(saved: Path) -> dict[str, Member] | None:
    """Return the cached members; None if the cache is missing or unreadable."""
    try:
        return {row["name"]: Member(**row) for row in read_jsonl(saved)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _walk(archive: Path) -> Iterator[Member]:
    with (
        _open_archive(str(archive)) as file,
        tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors=NAME_ERRORS) as tar,
    ):
        for entry in tar:
            climbs = entry.name.startswith("/") or ".." in PurePosixPath(entry.name).parts
            if entry.isreg() and not entry.issparse() and not climbs:
                yield Member(entry.name, entry.offset_data, entry.size)
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"no end-of-archive marker at byte {tar.offset}")  # tarfile accepts that


def _is_header_of(header: bytes, member: Member) -> bool:
    """Return whether a header is a member's; long names are not completely in it."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", NAME_ERRORS)
    except tarfile.HeaderError:
        return False
    long = len(member.name) > tarfile.LENGTH_NAME or not member.name.isascii()
    return info.size == member.size and (info.name == member.name or long)


def _read(archive: str, offset: int, size: int) -> bytes:
    if _is_gzip(archive):
        # raw: Python's buffer would read twice, each time from a saved state on
        gzip = _open_gzip_cached(archive, _cache_path(Path(archive), "entries"))
        content: bytes = gzip.raw.pread(size, offset)
        return content
    with open(archive, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _open_archive(archive: str) -> Any:
    """Open an archive, decompressing it if it is a gzip."""
    if _is_gzip(archive):
        return _gzip(archive, _cache_path(Path(archive), "entries"))
    return open(archive, "rb")


@cache
def _is_gzip(archive: str) -> bool:
    with open(archive, "rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _gzip(archive: str, entries: Path) -> Any:
    """Open a gzip for random access; the file itself is open only during each read."""
    from indexed_gzip import IndexedGzipFile  # imported here: it takes 0.1 s, and few need it

    if not entries.is_file():
        with IndexedGzipFile(archive, spacing=SPACING) as file:
            file.build_full_index()  # reads to the end, and so verifies the checksum
            exported = io.BytesIO()
            file.export_index(fileobj=exported)
        write_bytes(entries, (exported.getvalue(),))
    return IndexedGzipFile(
        archive, index_file=str(entries), readbuf_size=CHUNK, buffer_size=SPACING
    )


# forked processes share its memory, but no file position, since no file stays open
_open_gzip_cached = lru_cache(maxsize=MAX_OPEN_GZIPS)(_gzip)


def _cache_path(archive: Path, kind: str) -> Path:
    """Return the cache file for an archive of this size and modification time.

    Raises:
        InputError: the cache's folder cannot be created.
        OSError: there is no such archive.
    """
    status = os.stat(archive)
    name = hashlib.sha256(os.path.realpath(archive).encode()).hexdigest()[:16]
    try:
        folder = cached_assets_path("whisper-loop", namespace="archives", subfolder=name)
    except (OSError, ValueError) as error:  # ValueError: a file has the folder's name
        raise InputError(
            f"HF_HOME: the index of {archive} cannot be written there: {error}; "
            "set it to a writable folder"
        ) from error
    return folder / f"{status.st_size}-{status.st_mtime_ns}.{kind}"
