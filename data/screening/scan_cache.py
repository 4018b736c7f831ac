"""What scans find in audio files, and the cache that remembers it.

The cache is one file, which is always whole. While a scan is running, each process appends what it
finds to a file of its own beside the cache; the end of the scan moves all of it into the cache. A
start that is killed leaves these files behind, and the next start reads them.
"""

import json
import os
import socket
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from data.atomic_files import append_jsonl, write_jsonl


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found in a file."""

    seconds: float = 0.0
    reason: str = ""  # why it cannot be used; empty where it can
    detail: str = ""


Measurements = dict[str, Measured]  # by Utterance.audio
Stamps = dict[str, str]  # by Utterance.audio: changes as the file does; empty: never cached
Row = tuple[str, str, Measured]  # audio, stamp, what was found

FLUSH_SECONDS = 2.0  # between two writes to a process's own file
FLUSH_ROWS = 2_048  # or after so many clips
ABANDONED_SECONDS = 86_400.0  # files of another machine's process that nobody has written to since


class MeasurementCache:
    """The measurements of earlier scans, and those of a scan that is running."""

    def __init__(self, path: Path, scan: str = "") -> None:
        """Take the file of the cache; nothing is read yet.

        Args:
            path: of the file.
            scan: the name of the running scan, the same on all processes that share it. Empty: a
                new scan.
        """
        self.path = path
        self.scan = scan or uuid4().hex[:12]
        self._own = f"{path.name}.{self.scan}-{socket.gethostname()}-{os.getpid()}"

    @property
    def found(self) -> Path:
        """Return the file that this process appends to."""
        return self.path.with_name(f"{self._own}.found")

    @property
    def asked(self) -> Path:
        """Return the file in which this process names what is to be measured."""
        return self.path.with_name(f"{self._own}.asked")

    def known(self, stamps: Stamps) -> Measurements:
        """Return what was found in files that have not changed since."""
        found: Measurements = {}
        for path in (self.path, *self._beside("*.found")):
            for audio, stamp, measured in read_rows(path):
                if stamp and stamps.get(audio) == stamp:
                    found[audio] = measured
        return found

    def appending(self, stamps: Stamps) -> "Appender":
        """Return what writes to this process's own file."""
        return Appender(self.found, stamps)

    def unfinished(self) -> list[Path]:
        """Return the files that scans of processes which no longer run have left behind."""
        return [path for path in self._beside("*-*") if _ended(path, self._owner(path))]

    def consolidate(self, found: Measurements, stamps: Stamps) -> None:
        """Write the cache anew, with all that this scan found; remove the files beside it.

        The cache is read again for this: another run may have written to it meanwhile.
        """
        left = self.unfinished()
        rows: dict[str, tuple[str, Measured]] = {}
        for path in (self.path, *left):
            rows |= {audio: (stamp, measured) for audio, stamp, measured in read_rows(path)}
        rows |= {audio: (stamps[audio], measured) for audio, measured in found.items()}
        kept = (_row(audio, *row) for audio, row in rows.items() if row[0])
        write_jsonl(self.path, kept)
        for path in (*left, *self._beside(f"{self.scan}-*")):
            path.unlink(missing_ok=True)

    def _beside(self, pattern: str) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.{pattern}"))

    def _owner(self, path: Path) -> tuple[str, str]:
        """Return the machine and the number of the process that a file beside the cache is of."""
        _, _, owner = path.stem.removeprefix(f"{self.path.name}.").partition("-")
        host, _, pid = owner.rpartition("-")
        return host, pid


class Appender:
    """Appends what is found to a file, every few seconds."""

    def __init__(self, path: Path, stamps: Stamps) -> None:
        """Take the file, which is made when there is something to write, and the files' stamps."""
        self._path = path
        self._stamps = stamps
        self._rows: list[dict[str, object]] = []
        self._written = time.monotonic()

    def append_all(
        self, rows: Iterable[tuple[str, Measured]]
    ) -> Generator[tuple[str, Measured], None, None]:
        """Take what was found in files, and yield it; what was taken is written at an error too."""
        try:
            for audio, measured in rows:
                self.add(audio, measured)
                yield audio, measured
        finally:
            self.flush()

    def add(self, audio: str, measured: Measured) -> None:
        """Take what was found in a file; write it when it is time."""
        self._rows.append(_row(audio, self._stamps[audio], measured))
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken since the last time.

        Raises:
            OSError: the disk is full.
        """
        if self._rows:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self._path, self._rows)
            self._rows.clear()
        self._written = time.monotonic()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; one that cannot be read costs a measurement, and no more."""
    try:
        file = path.open("rb")
    except OSError:  # there is none, or another run has just removed it
        return
    with file:
        yield from filter(None, map(_read_row, file))


def _read_row(line: bytes) -> Row | None:
    """Return a row; None where the line is damaged, as the last one of a start that was killed."""
    try:
        row = json.loads(line.decode())
        return row["audio"], row["stamp"], Measured(**row["found"])
    except (ValueError, KeyError, TypeError):
        return None


def _row(audio: str, stamp: str, measured: Measured) -> dict[str, object]:
    return {"audio": audio, "stamp": stamp, "found": asdict(measured)}


def _ended(path: Path, owner: tuple[str, str]) -> bool:
    """Tell whether the process that writes a file has ended; on another machine its age tells."""
    host, pid = owner
    if host == socket.gethostname() and pid.isdecimal() and not _runs(int(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except OSError:  # another run has just removed it
        return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
