"""Windows: parts of a stream, each stored on disk and screened while it is trained on."""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import NamedTuple

from data.config import DataConfig
from data.labels import LabelEncoder
from data.lazy_manifest import ManifestColumns
from data.screening.durations import scan
from data.screening.filters import Screened
from data.screening.training_set import count_tokens, screen_training_split, with_model_language
from data.streaming.stream import Stream, StreamPosition, StreamRow
from data.streaming.tar_window import write_window
from data.streaming.window_log import WindowLog
from data.utterance import Drop, Utterance

Screen = Callable[[list[Utterance]], Screened]
WindowRows = tuple[list[Utterance], StreamPosition]  # rows, and the start of the next window


class Window(NamedTuple):
    """The screened utterances of a window."""

    utterances: list[Utterance]
    drops: list[Drop]


class Windows:
    """Reads windows in a thread, one ahead; at most two are on disk.

    Only reading is done ahead. Measuring forks processes, and a process that is forked while
    another thread computes may deadlock on a lock of that thread, such as torch's generator's.
    """

    def __init__(
        self, stream: Stream, size: int, screen: Screen, folder: Path, log: WindowLog
    ) -> None:
        """Store the parts; nothing is read yet.

        Args:
            stream: the source of rows.
            size: rows per window; the last window of an epoch may have fewer.
            screen: selects the rows to train on.
            folder: for audio; removed by close().
            log: records where windows begin.
        """
        self._stream = stream
        self._size = size
        self._screen = screen
        self._folder = folder
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._stop = Event()
        self._rows: Iterator[StreamRow] = iter(())
        self._next: StreamRow | None = None  # already read, to know where an epoch ends
        self._pending: dict[int, Future[WindowRows]] = {}  # at most one
        self._loaded: dict[int, Window] = {}  # at most one

    def load(self, number: int) -> Window:
        """Return a window. Of the others, only one that is being prefetched stays on disk.

        Raises:
            InputError: it cannot be read, or differs from when it was first read.
        """
        if number not in self._loaded:
            for old in self._loaded:
                self._path(old).unlink(missing_ok=True)
            self._loaded = {}
            self.prefetch(number)
            rows, after = self._pending.pop(number).result()
            kept, drops = self._screen(rows)
            self._log.record(number, after, ManifestColumns.from_utterances(kept).fingerprint)
            # a locator into the tar file is useless once the file is removed
            drops = [replace(drop, audio=drop.id) for drop in drops]
            self._loaded[number] = Window(kept, drops)
        return self._loaded[number]

    def prefetch(self, number: int) -> None:
        """Start reading a window; cancel any other that is being read."""
        if number not in self._pending:
            self._cancel()
            self._pending[number] = self._thread.submit(self._read, number)

    def close(self) -> None:
        """Cancel reading, and remove all files."""
        self._cancel()
        self._thread.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # not empty while other processes have windows
            self._folder.parent.rmdir()

    def _cancel(self) -> None:
        self._stop.set()
        wait(self._pending.values())
        for number in self._pending:
            self._path(number).unlink(missing_ok=True)
        self._pending = {}
        self._stop.clear()

    def _read(self, number: int) -> WindowRows:
        """Read a window in the thread, from the nearest known start on."""
        known, begin = self._log.nearest(number)
        for _ in range(known, number):
            deque(self._window(begin), maxlen=0)
            begin = self._next_position()
        rows = write_window(self._window(begin), self._path(number), self._stream.revision)
        return rows, self._next_position()

    def _window(self, begin: StreamPosition) -> Iterator[StreamRow]:
        """Yield the rows of a window; one more row is read, and kept for the next window."""
        if self._next is None or self._next.position != begin:
            self._rows = self._stream.rows(begin)
            self._next = next(self._rows)
        for _ in range(self._size):
            if self._next.position.epoch != begin.epoch:
                return
            if self._stop.is_set():
                raise CancelledError
            yield self._next
            self._next = next(self._rows)

    def _next_position(self) -> StreamPosition:
        assert self._next is not None
        return self._next.position

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.tar"


def screen_window(
    rows: list[Utterance],
    config: DataConfig,
    labels: LabelEncoder,
    held_out: Sequence[Utterance],
    *,
    show: bool = False,
) -> Screened:
    """Return the utterances of a window to train on, and the dropped ones.

    Raises:
        InputError: a language is not supported, or the model has no timestamp tokens.
    """
    rows = count_tokens(rows, config, labels, config.train_split)
    measure = partial(scan, config=config, cache=None, show=show)
    return screen_training_split(rows, config, labels, held_out, measure)


def first_window(
    config: DataConfig,
    labels: LabelEncoder,
    held_out: Sequence[Utterance],
    folder: Path,
    *,
    seed: int,
    show: bool,
) -> Window:
    """Read the first window of a stream, for the manifest of a run.

    Args:
        config: has the corpus and the split.
        labels: counts tokens, checks languages.
        held_out: utterances of dev and test.
        folder: for a temporary folder of its audio.
        seed: of the order of shards.
        show: whether to print progress.

    Raises:
        InputError: it cannot be read.
    """
    stream = Stream(with_model_language(config, labels), seed, config.revision)
    if show:
        print(f"reading {config.shuffle_buffer:,} clips of {config.corpus[0]} …")
    screened = partial(screen_window, config=config, labels=labels, held_out=held_out, show=show)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="stream-", dir=folder) as place:
        log = WindowLog(Path(place) / "stream.jsonl")
        windows = Windows(stream, config.shuffle_buffer, screened, Path(place) / "audio", log)
        with closing(windows):
            return windows.load(0)
