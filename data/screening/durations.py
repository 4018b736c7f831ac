"""How long each clip is, and which cannot be used: measured once, before training, and cached."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from data.audio.decode import AudioError, declared_seconds, measured_seconds
from data.audio.source import file_of
from data.config import DataConfig
from data.screening.scan_cache import Measured, MeasurementCache, Measurements, Stamps
from data.utterance import Utterance
from data.worker_pool import WorkerWatch, survive

FILES = 64  # that a worker measures in one go: handing over costs as much as reading a header
MISSING = Measured(reason="missing", detail="no such file")


class MeasureFiles(Protocol):
    """Measures files: on this process alone, or on several."""

    def __call__(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
    ) -> Measurements:
        """Return what was found in each file."""


def measure_here(
    stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
) -> Measurements:
    """Measure files on this process alone.

    Args:
        stamps: the files.
        config: says how far to look, and with how many workers.
        cache: where what is found is written down meanwhile. None: nowhere.
        show: whether to draw a progress bar.
    """
    label = f"checking {len(stamps):,} clips" if show else None
    with closing(measuring(stamps, config, cache, label=label)) as found:
        return dict(found)


def scan(
    utterances: Sequence[Utterance],
    config: DataConfig,
    cache: Path | None,
    *,
    show: bool,
    measure_files: MeasureFiles = measure_here,
) -> Measurements:
    """Measure every clip whose length is not known, or all of them where `check` is decode.

    Args:
        utterances: whose audio to measure.
        config: says how far to look, and with how many workers.
        cache: a file with what earlier scans found; extended here. None: nothing is remembered.
        show: whether to draw a progress bar.
        measure_files: measures what is not in the cache.
    """
    wanted = dict.fromkeys(
        u.audio for u in utterances if config.scan == "decode" or (u.seconds == 0 and u.end is None)
    )
    stamps = {audio: _stamp(audio, config.scan) for audio in wanted}
    remembered = None if cache is None else MeasurementCache(cache)
    known = {} if remembered is None else remembered.known(stamps)
    fresh = {audio: stamp for audio, stamp in stamps.items() if audio not in known}
    found = measure_files(fresh, config, remembered, show=show) if fresh else {}
    if remembered is not None and (fresh or remembered.unfinished()):
        remembered.consolidate(found, stamps)
    missing = {u.audio for u in utterances if u.audio not in wanted and _missing(u.audio)}
    return known | found | dict.fromkeys(missing, MISSING)


class _Files(Dataset[Measured]):
    """Measures the file that is asked for; one that kills its worker is not asked for again."""

    def __init__(self, audios: Sequence[str], check: str, watch: WorkerWatch) -> None:
        self.audios = audios
        self.check = check
        self.watch = watch

    def __getitem__(self, index: int) -> Measured:
        try:
            with self.watch.decoding(index):
                return measure(self.audios[index], self.check)
        except AudioError as error:
            return Measured(reason=error.reason, detail=error.detail)


def measuring(
    stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, label: str | None
) -> Generator[tuple[str, Measured], None, None]:
    """Yield each file and what was found in it, in order; write it down meanwhile.

    Whoever does not read to the end closes it, with contextlib.closing().

    Args:
        stamps: the files.
        config: says how far to look, and with how many workers.
        cache: where what is found is written down. None: nowhere.
        label: shown beside the progress bar. None: there is no bar.
    """
    files = list(stamps)
    quiet = label is None or not (files and sys.stdout.isatty())
    with closing(_measure_all(files, config)) as found:
        progress = track(found, label or "", total=len(files), disable=quiet, transient=True)
        rows = zip(files, progress, strict=True)
        yield from rows if cache is None else cache.appending(stamps).append_all(rows)


def _measure_all(files: Sequence[str], config: DataConfig) -> Generator[Measured, None, None]:
    workers = min(config.workers, len(files))
    watch = WorkerWatch(files.__getitem__, workers)
    make = partial(
        DataLoader, _Files(files, config.scan, watch), collate_fn=list, num_workers=workers
    )
    size = min(FILES, 1 + len(files) // (8 * max(1, workers)))  # few and long ones are shared too
    tasks = [range(i, min(i + size, len(files))) for i in range(0, len(files), size)]
    with closing(survive(tasks, make, watch)) as found:
        yield from chain.from_iterable(found)


def measure(audio: str, check: str) -> Measured:
    """Measure one clip, by its header or by decoding it."""
    try:
        seconds = declared_seconds if check == "header" else measured_seconds
        return Measured(seconds=seconds(audio))
    except AudioError as error:
        return Measured(reason=error.reason, detail=error.detail)


def _stamp(audio: str, check: str) -> str:
    """Return what changes when a file does; empty for what is not a file, which is never cached."""
    file = file_of(audio)
    if file is None:
        return ""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: a name that cannot be one
        return ""
    return f"{check} {status.st_size} {status.st_mtime_ns}"


def _missing(audio: str) -> bool:
    file = file_of(audio)
    try:  # not os.path.exists(), which takes twice as long and is asked of millions
        return file is not None and not os.access(file, os.F_OK)
    except ValueError:  # a name that cannot be one
        return True
