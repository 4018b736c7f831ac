"""Where the windows of a stream begin, and what they held: kept, so that a run can go on."""

from pathlib import Path

from data.atomic_files import append_jsonl, read_jsonl
from data.errors import InputError
from data.streaming.stream import StreamPosition


class WindowLog:
    """stream.jsonl: a line for each window that was read, with where it ended.

    Without it a run goes on as exactly, after reading the stream from its beginning.
    """

    def __init__(self, path: Path, first: str = "", *, rank: int = 0) -> None:
        """Take what earlier starts have noted.

        Args:
            path: the file.
            first: fingerprint of the first window, as the run's manifest has it.
            rank: of this process. All read the same windows, and the first one notes them: of lines
                that two machines append, NFS loses some.
        """
        self._path = path
        self._notes = rank == 0
        self._begins = {0: StreamPosition()}
        self._held = {0: first} if first else {}
        try:
            for row in read_jsonl(path) if path.is_file() else ():
                self._held[row["window"]] = row["fingerprint"]
                self._begins[row["window"] + 1] = StreamPosition(*row["after"])
        except (ValueError, KeyError, TypeError):  # what cannot be read costs time, and no more
            self._begins = {0: StreamPosition()}

    def nearest(self, number: int) -> tuple[int, StreamPosition]:
        """Return the last window up to this one whose beginning is known, and where that is."""
        known = max(each for each in self._begins if each <= number)
        return known, self._begins[known]

    def note(self, number: int, after: StreamPosition, fingerprint: str) -> None:
        """Take down what a window held, and where it ended.

        Raises:
            InputError: it held something else when it was read before.
        """
        before = self._held.setdefault(number, fingerprint)
        if before != fingerprint:
            raise InputError(
                f"{self._path}: window {number} of the stream held other clips ({before}, now "
                f"{fingerprint}): the dataset, or what is left out of it, has changed since: "
                "bring it back, or start another run"
            )
        if self._notes and number + 1 not in self._begins:
            row = {"window": number, "fingerprint": fingerprint, "after": after}
            append_jsonl(self._path, [row])
        self._begins[number + 1] = after
