"""A stream in windows: small corpora, each on disk for as long as it is trained on."""

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
from data.screening.training_set import select, settle, spoken
from data.streaming.stream import Stream, StreamPosition, StreamRow
from data.streaming.tar_window import spool
from data.streaming.window_log import WindowLog
from data.utterance import Drop, Utterance

Screen = Callable[[list[Utterance]], Screened]
Read = tuple[list[Utterance], StreamPosition]  # a window's rows, and where the next one begins


class Window(NamedTuple):
    """What is trained on together."""

    utterances: list[Utterance]
    drops: list[Drop]


class Windows:
    """Reads windows in a thread, one ahead; two are on disk at most.

    Only reading is done ahead. Measuring starts processes, and what is forked while another thread
    computes may wait for ever for a lock that this one held, such as that of torch's generator.
    """

    def __init__(
        self, stream: Stream, size: int, screen: Screen, folder: Path, places: WindowLog
    ) -> None:
        """Take what is read and how it is screened; nothing is read yet.

        Args:
            stream: where rows come from.
            size: rows of a window; the last one of an epoch may have fewer.
            screen: says which rows are trained on.
            folder: where audio goes; it is gone after close().
            places: where windows begin.
        """
        self._stream = stream
        self._size = size
        self._screen = screen
        self._folder = folder
        self._places = places
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._stop = Event()
        self._rows: Iterator[StreamRow] = iter(())
        self._next: StreamRow | None = None  # read already, to know where an epoch ends
        self._reading: dict[int, Future[Read]] = {}  # at most one
        self._taken: dict[int, Window] = {}  # at most one

    def take(self, number: int) -> Window:
        """Return a window. Of the others, only one that is being read ahead stays on disk.

        Raises:
            InputError: it cannot be read, or is not what it was before.
        """
        if number not in self._taken:
            for old in self._taken:
                self._path(old).unlink(missing_ok=True)
            self._taken = {}
            self.prepare(number)
            rows, after = self._reading.pop(number).result()
            kept, drops = self._screen(rows)
            self._places.note(number, after, ManifestColumns.of(kept).fingerprint)
            # the part of a file that a drop lay in says nothing once the file is gone
            named = [replace(drop, audio=drop.id) for drop in drops]
            self._taken[number] = Window(kept, named)
        return self._taken[number]

    def prepare(self, number: int) -> None:
        """Begin to read a window; what else is being read is given up."""
        if number not in self._reading:
            self._give_up()
            self._reading[number] = self._thread.submit(self._read, number)

    def close(self) -> None:
        """Give up what is being read, and leave nothing on disk."""
        self._give_up()
        self._thread.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # other processes' windows may still lie beside
            self._folder.parent.rmdir()

    def _give_up(self) -> None:
        self._stop.set()
        wait(self._reading.values())
        for number in self._reading:
            self._path(number).unlink(missing_ok=True)
        self._reading = {}
        self._stop.clear()

    def _read(self, number: int) -> Read:
        """Read a window in the thread, from the nearest beginning that is known."""
        known, begin = self._places.nearest(number)
        for _ in range(known, number):
            deque(self._window(begin), maxlen=0)
            begin = self._at()
        rows = spool(self._window(begin), self._path(number), self._stream.revision)
        return rows, self._at()

    def _window(self, begin: StreamPosition) -> Iterator[StreamRow]:
        """Yield the rows of a window; the row after it is read too, and kept for the next one."""
        if self._next is None or self._next.place != begin:
            self._rows = self._stream.rows(begin)
            self._next = next(self._rows)
        for _ in range(self._size):
            if self._next.place.epoch != begin.epoch:
                return
            if self._stop.is_set():
                raise CancelledError
            yield self._next
            self._next = next(self._rows)

    def _at(self) -> StreamPosition:
        assert self._next is not None
        return self._next.place

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.tar"


def screen(
    rows: list[Utterance],
    config: DataConfig,
    encoder: LabelEncoder,
    held_out: Sequence[Utterance],
    *,
    show: bool = False,
) -> Screened:
    """Return what of a window is trained on, and what is not.

    Raises:
        InputError: a language is unknown, or the model cannot learn what it shall.
    """
    rows = settle(rows, config, encoder, config.train_split)
    measure = partial(scan, config=config, cache=None, show=show)
    return select(rows, config, encoder, held_out, measure)


def first_window(
    config: DataConfig,
    encoder: LabelEncoder,
    held_out: Sequence[Utterance],
    folder: Path,
    *,
    seed: int,
    show: bool,
) -> Window:
    """Read the first window of a stream, for the manifest of a run.

    Args:
        config: says which stream.
        encoder: counts tokens, knows the languages.
        held_out: dev and test.
        folder: where there is room for its audio.
        seed: of the order of shards.
        show: whether to say what is going on.

    Raises:
        InputError: it cannot be read.
    """
    stream = Stream(spoken(config, encoder), seed, config.revision)
    if show:
        print(f"reading {config.shuffle_buffer:,} clips of {config.corpus[0]} …")
    screened = partial(screen, config=config, encoder=encoder, held_out=held_out, show=show)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="stream-", dir=folder) as place:
        places = WindowLog(Path(place) / "stream.jsonl")
        windows = Windows(stream, config.shuffle_buffer, screened, Path(place) / "audio", places)
        with closing(windows):
            return windows.take(0)
