"""WindowLog (stream.jsonl): positions and fingerprints of a stream's windows, for resuming."""

from pathlib import Path

from data.atomic_files import append_jsonl, read_jsonl
from data.errors import InputError
from data.streaming.stream import StreamPosition


class WindowLog:
    """stream.jsonl: one line per window that was read, with the position after it.

    Without it, resuming is just as exact, but reads the stream from its beginning.
    """

    def __init__(self, path: Path, first: str = "", *, rank: int = 0) -> None:
        """Read the log of earlier starts.

        Args:
            path: of the file.
            first: fingerprint of the first window, from the run's manifest.
            rank: of this process. All read the same windows, but only rank 0 writes: NFS loses some
                lines that two machines append.
        """
        self._path = path
        self._is_writer = rank == 0
        self._starts = {0: StreamPosition()}
        self._fingerprints = {0: first} if first else {}
        try:
            for row in read_jsonl(path) if path.is_file() else ():
                self._fingerprints[row["window"]] = row["fingerprint"]
                self._starts[row["window"] + 1] = StreamPosition(*row["after"])
        except (ValueError, KeyError, TypeError):  # an unreadable log only costs time
            self._starts = {0: StreamPosition()}

    def nearest(self, number: int) -> tuple[int, StreamPosition]:
        """Return the last window up to this one whose start is known, and its start."""
        window = max(window for window in self._starts if window <= number)
        return window, self._starts[window]

    def record(self, number: int, after: StreamPosition, fingerprint: str) -> None:
        """Record a window's fingerprint and the position after it.

        Raises:
            InputError: its fingerprint has changed since it was first read.
        """
        before = self._fingerprints.setdefault(number, fingerprint)
        if before != fingerprint:
            raise InputError(
                f"{self._path}: window {number} of the stream had other clips ({before}, now "
                f"{fingerprint}): the dataset, or the filters, have changed since: restore them, "
                "or start another run"
            )
        if self._is_writer and number + 1 not in self._starts:
            row = {"window": number, "fingerprint": fingerprint, "after": after}
            append_jsonl(self._path, [row])
        self._starts[number + 1] = after
