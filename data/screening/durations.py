"""Measure durations and find unreadable clips, once before training; results are cached."""

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
from data.audio.open_audio import containing_file
from data.config import DataConfig
from data.screening.scan_cache import Measurement, MeasurementCache, Measurements, Stamps
from data.utterance import Utterance
from data.worker_crashes import WorkerWatch, resilient_batches

FILES_PER_TASK = 64  # per worker task, since a task costs as much as reading a header
MISSING_FILE = Measurement(reason="missing", detail="no such file")


class MeasureFiles(Protocol):
    """Measures files, on one process or several."""

    def __call__(
        self, stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
    ) -> Measurements:
        """Return a measurement per file."""


def measure_locally(
    stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, show: bool
) -> Measurements:
    """Measure files on this process.

    Args:
        stamps: the files.
        config: whether to decode (check), and the number of workers.
        cache: that results are appended to. None: no cache.
        show: whether to show a progress bar.
    """
    label = f"checking {len(stamps):,} clips" if show else None
    with closing(iter_measurements(stamps, config, cache, label=label)) as measurements:
        return dict(measurements)


def scan(
    utterances: Sequence[Utterance],
    config: DataConfig,
    cache: Path | None,
    *,
    show: bool,
    measure_files: MeasureFiles = measure_locally,
) -> Measurements:
    """Measure all clips of unknown duration, or all clips if data.scan is decode.

    Args:
        utterances: to measure.
        config: whether to decode (check), and the number of workers.
        cache: file with the results of earlier scans, which is extended. None: no cache.
        show: whether to show a progress bar.
        measure_files: measures what is not in the cache.
    """
    wanted = dict.fromkeys(
        u.audio for u in utterances if config.scan == "decode" or (u.seconds == 0 and u.end is None)
    )
    stamps = {audio: _stamp(audio, config.scan) for audio in wanted}
    saved = None if cache is None else MeasurementCache(cache)
    cached = {} if saved is None else saved.lookup(stamps)
    fresh = {audio: stamp for audio, stamp in stamps.items() if audio not in cached}
    measured = measure_files(fresh, config, saved, show=show) if fresh else {}
    if saved is not None and (fresh or saved.abandoned_files()):
        saved.consolidate(measured, stamps)
    missing = {u.audio for u in utterances if u.audio not in wanted and _missing(u.audio)}
    return cached | measured | dict.fromkeys(missing, MISSING_FILE)


class _Files(Dataset[Measurement]):
    """Measures files by index; reports an error for files that killed a worker before."""

    def __init__(self, audios: Sequence[str], check: str, watch: WorkerWatch) -> None:
        self.audios = audios
        self.check = check
        self.watch = watch

    def __getitem__(self, index: int) -> Measurement:
        try:
            with self.watch.decoding(index):
                return measure(self.audios[index], self.check)
        except AudioError as error:
            return Measurement(reason=error.reason, detail=error.detail)


def iter_measurements(
    stamps: Stamps, config: DataConfig, cache: MeasurementCache | None, *, label: str | None
) -> Generator[tuple[str, Measurement], None, None]:
    """Yield files and their measurements in order, and append them to the cache.

    A caller that may not exhaust it must close it, with contextlib.closing().

    Args:
        stamps: the files.
        config: whether to decode (check), and the number of workers.
        cache: that results are appended to. None: no cache.
        label: of the progress bar. None: no progress bar.
    """
    files = list(stamps)
    quiet = label is None or not (files and sys.stdout.isatty())
    with closing(_measure_all(files, config)) as measurements:
        progress = track(measurements, label or "", total=len(files), disable=quiet, transient=True)
        rows = zip(files, progress, strict=True)
        yield from rows if cache is None else cache.appender(stamps).append_all(rows)


def _measure_all(files: Sequence[str], config: DataConfig) -> Generator[Measurement, None, None]:
    workers = min(config.workers, len(files))
    watch = WorkerWatch(files.__getitem__, workers)
    make = partial(
        DataLoader, _Files(files, config.scan, watch), collate_fn=list, num_workers=workers
    )
    # smaller tasks for few files, so that all workers share them
    size = min(FILES_PER_TASK, 1 + len(files) // (8 * max(1, workers)))
    tasks = [range(i, min(i + size, len(files))) for i in range(0, len(files), size)]
    with closing(resilient_batches(tasks, make, watch)) as batches:
        yield from chain.from_iterable(batches)


def measure(audio: str, check: str) -> Measurement:
    """Measure one file, by its header or by decoding it."""
    try:
        seconds = declared_seconds if check == "header" else measured_seconds
        return Measurement(seconds=seconds(audio))
    except AudioError as error:
        return Measurement(reason=error.reason, detail=error.detail)


def _stamp(audio: str, check: str) -> str:
    """Return a stamp that changes with the file; empty, so never cached, without a file."""
    file = containing_file(audio)
    if file is None:
        return ""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: an invalid path
        return ""
    return f"{check} {status.st_size} {status.st_mtime_ns}"


def _missing(audio: str) -> bool:
    file = containing_file(audio)
    try:  # os.path.exists() takes twice as long, and there are millions
        return file is not None and not os.access(file, os.F_OK)
    except ValueError:  # an invalid path
        return True
