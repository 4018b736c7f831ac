"""How long each clip is, and which cannot be used: measured once, before training, and cached."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from data.audio import AudioError, declared_seconds, measured_seconds
from data.config import DataConfig
from data.files import read_jsonl, write_jsonl
from data.source import file_of
from data.utterance import Utterance
from data.workers import Watch, survive


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found in a file."""

    seconds: float = 0.0
    reason: str = ""  # why it cannot be used; empty where it can
    detail: str = ""


FILES = 64  # that a worker measures in one go: handing over costs as much as reading a header
MISSING = Measured(reason="missing", detail="no such file")
Measurements = dict[str, Measured]  # by Utterance.audio
Cached = dict[str, tuple[str, Measured]]  # by Utterance.audio, with what changes as the file does


def scan(
    utterances: Sequence[Utterance], config: DataConfig, cache: Path | None, *, show: bool
) -> Measurements:
    """Measure every clip whose length is not known, or all of them where `check` is decode.

    Args:
        utterances: whose audio to measure.
        config: says how far to look, and with how many workers.
        cache: a file with what earlier scans found; extended here. None: nothing is remembered.
        show: whether to draw a progress bar.
    """
    wanted = dict.fromkeys(
        u.audio
        for u in utterances
        if config.check == "decode" or (u.seconds == 0 and u.end is None)
    )
    stamps = {audio: _stamp(audio, config.check) for audio in wanted}
    cached = {} if cache is None else _read(cache)
    known = {
        audio: cached[audio][1]
        for audio in wanted
        if audio in cached and cached[audio][0] == stamps[audio]
    }
    fresh = [audio for audio in wanted if audio not in known]
    known |= _measure_all(fresh, config, show=show)
    if fresh and cache is not None:
        _write(cache, cached | {audio: (stamps[audio], known[audio]) for audio in fresh})
    missing = {u.audio for u in utterances if u.audio not in wanted and _missing(u.audio)}
    return known | dict.fromkeys(missing, MISSING)


class _Files(Dataset[Measured]):
    """Measures the file that is asked for; one that kills its worker is not asked for again."""

    def __init__(self, audios: Sequence[str], check: str, watch: Watch) -> None:
        self.audios = audios
        self.check = check
        self.watch = watch

    def __getitem__(self, index: int) -> Measured:
        try:
            with self.watch.decoding(index):
                return measure(self.audios[index], self.check)
        except AudioError as error:
            return Measured(reason=error.reason, detail=error.detail)


def _measure_all(fresh: Sequence[str], config: DataConfig, *, show: bool) -> Measurements:
    workers = min(config.workers, len(fresh))
    watch = Watch(fresh.__getitem__, workers)
    make = partial(
        DataLoader, _Files(fresh, config.check, watch), collate_fn=list, num_workers=workers
    )
    size = min(FILES, 1 + len(fresh) // (8 * max(1, workers)))  # few and long ones are shared too
    tasks = [range(i, min(i + size, len(fresh))) for i in range(0, len(fresh), size)]
    quiet = not (show and fresh and sys.stdout.isatty())
    label = f"checking {len(fresh):,} clips"
    found = chain.from_iterable(survive(tasks, make, watch))
    progress = track(found, label, total=len(fresh), disable=quiet, transient=True)
    return dict(zip(fresh, progress, strict=True))


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


def _read(cache: Path) -> Cached:
    """Return the cache; one that cannot be read costs a scan, and no more."""
    try:
        rows = read_jsonl(cache) if cache.is_file() else ()
        return {row["audio"]: (row["stamp"], Measured(**row["found"])) for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}


def _write(cache: Path, cached: Cached) -> None:
    rows = (
        {"audio": audio, "stamp": stamp, "found": asdict(found)}
        for audio, (stamp, found) in cached.items()
        if stamp
    )
    write_jsonl(cache, rows)
