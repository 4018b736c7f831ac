"""Measurement of an audio file, and the cache of measurements from earlier scans.

The cache is one file, which is always complete. During a scan, each process appends results to its
own file next to the cache; the end of the scan merges these into the cache. A killed process leaves
its file behind, and the next start reads it.
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
class Measurement:
    """The duration of a file, or why it cannot be used."""

    seconds: float = 0.0
    reason: str = ""  # why it cannot be used; empty if it can
    detail: str = ""


Measurements = dict[str, Measurement]  # by Utterance.audio
Stamps = dict[str, str]  # by Utterance.audio: changes when the file does; empty: not cached
Row = tuple[str, str, Measurement]  # audio, stamp, measurement

FLUSH_SECONDS = 2.0  # between writes to a process's own file
FLUSH_ROWS = 2_048  # or after so many clips
ABANDONED_SECONDS = 86_400.0  # since the last write of a process on another machine


class MeasurementCache:
    """The measurements of earlier scans, and of the running scan."""

    def __init__(self, path: Path, scan: str = "") -> None:
        """Set the paths; nothing is read yet.

        Args:
            path: of the cache.
            scan: name of the running scan, the same on all processes that share it. Empty: a new
                scan.
        """
        self.path = path
        self.scan = scan or uuid4().hex[:12]
        self._own = f"{path.name}.{self.scan}-{socket.gethostname()}-{os.getpid()}"

    @property
    def results_path(self) -> Path:
        """Return the file that this process appends to."""
        return self.path.with_name(f"{self._own}.found")

    @property
    def requests_path(self) -> Path:
        """Return the file in which this process lists the files to measure."""
        return self.path.with_name(f"{self._own}.asked")

    def lookup(self, stamps: Stamps) -> Measurements:
        """Return the measurements of files that have not changed since."""
        measurements: Measurements = {}
        for path in (self.path, *self._files_of_cache("*.found")):
            for audio, stamp, measured in read_rows(path):
                if stamp and stamps.get(audio) == stamp:
                    measurements[audio] = measured
        return measurements

    def appender(self, stamps: Stamps) -> "Appender":
        """Return an Appender to this process's own file."""
        return Appender(self.results_path, stamps)

    def abandoned_files(self) -> list[Path]:
        """Return files that were left behind by processes that have exited."""
        return [
            path for path in self._files_of_cache("*-*") if _has_exited(path, self._owner(path))
        ]

    def consolidate(self, measurements: Measurements, stamps: Stamps) -> None:
        """Rewrite the cache with this scan's results added, and remove the files next to it.

        The cache is read again, since another run may have written to it meanwhile.
        """
        abandoned = self.abandoned_files()
        rows: dict[str, tuple[str, Measurement]] = {}
        for path in (self.path, *abandoned):
            rows |= {audio: (stamp, measured) for audio, stamp, measured in read_rows(path)}
        rows |= {audio: (stamps[audio], measured) for audio, measured in measurements.items()}
        rows_to_keep = (_row(audio, *row) for audio, row in rows.items() if row[0])
        write_jsonl(self.path, rows_to_keep)
        for path in (*abandoned, *self._files_of_cache(f"{self.scan}-*")):
            path.unlink(missing_ok=True)

    def _files_of_cache(self, pattern: str) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.{pattern}"))

    def _owner(self, path: Path) -> tuple[str, str]:
        """Return the host and the process id of the owner of a file next to the cache."""
        _, _, owner = path.stem.removeprefix(f"{self.path.name}.").partition("-")
        host, _, pid = owner.rpartition("-")
        return host, pid


class Appender:
    """Appends measurements to a file, every few seconds."""

    def __init__(self, path: Path, stamps: Stamps) -> None:
        """Store the path, created at the first write, and the stamps of the measured files."""
        self._path = path
        self._stamps = stamps
        self._rows: list[dict[str, object]] = []
        self._written = time.monotonic()

    def append_all(
        self, rows: Iterable[tuple[str, Measurement]]
    ) -> Generator[tuple[str, Measurement], None, None]:
        """Append and yield measurements; all are written, even after an error."""
        try:
            for audio, measured in rows:
                self.add(audio, measured)
                yield audio, measured
        finally:
            self.flush()

    def add(self, audio: str, measured: Measurement) -> None:
        """Add a measurement, and flush if it is time."""
        self._rows.append(_row(audio, self._stamps[audio], measured))
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the measurements added since the last flush.

        Raises:
            OSError: the disk is full.
        """
        if self._rows:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self._path, self._rows)
            self._rows.clear()
        self._written = time.monotonic()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; skip unreadable ones, which are then measured again."""
    try:
        file = path.open("rb")
    except OSError:  # it does not exist, or another run has just removed it
        return
    with file:
        yield from filter(None, map(_read_row, file))


def _read_row(line: bytes) -> Row | None:
    """Return a row; None if the line is damaged, as the last one of a killed process may be."""
    try:
        row = json.loads(line.decode())
        return row["audio"], row["stamp"], Measurement(**row["found"])
    except (ValueError, KeyError, TypeError):
        return None


def _row(audio: str, stamp: str, measured: Measurement) -> dict[str, object]:
    return {"audio": audio, "stamp": stamp, "found": asdict(measured)}


def _has_exited(path: Path, owner: tuple[str, str]) -> bool:
    """Return whether a file's process has exited; on another machine, judged by the file's age."""
    host, pid = owner
    if host == socket.gethostname() and pid.isdecimal() and not _is_running(int(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except OSError:  # another run has just removed it
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        return True
    return True
