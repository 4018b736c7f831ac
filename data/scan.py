"""How long each clip is, and which cannot be used: measured once, before training, and cached."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from data.audio import AudioError, declared_seconds, decode
from data.config import DataConfig
from data.files import read_jsonl, write_jsonl
from data.utterance import Utterance


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found in a file."""

    seconds: float = 0.0
    reason: str = ""  # why it cannot be used; empty where it can
    detail: str = ""


Measurements = dict[str, Measured]  # by Utterance.audio


def scan(
    utterances: Sequence[Utterance], config: DataConfig, cache: Path, *, show: bool
) -> Measurements:
    """Measure every clip whose length is not known, or all of them where `check` is decode.

    Args:
        utterances: whose audio to measure.
        config: says how far to look, and with how many threads.
        cache: a file with what earlier scans found; extended here.
        show: whether to draw a progress bar.
    """
    wanted = dict.fromkeys(
        u.audio
        for u in utterances
        if config.check == "decode" or (u.seconds == 0 and u.end is None)
    )
    stamps = {audio: _stamp(audio) for audio in wanted}
    known = _read(cache, config.check, stamps)
    fresh = [audio for audio in wanted if audio not in known]
    with ThreadPoolExecutor(max(1, config.workers)) as pool:  # soundfile lets go of the GIL
        found = pool.map(lambda audio: measure(audio, config.check), fresh)
        label = f"checking {len(fresh):,} clips"
        progress = track(
            found,
            label,
            total=len(fresh),
            disable=not (show and fresh and sys.stdout.isatty()),
            transient=True,
        )
        known.update(zip(fresh, progress, strict=True))
    if fresh:
        rows = (
            {"audio": audio, "stamp": stamps[audio], "check": config.check, **asdict(measured)}
            for audio, measured in known.items()
            if stamps[audio]
        )
        write_jsonl(cache, rows)
    return known


def measure(audio: str, check: str) -> Measured:
    """Measure one clip, by its header or by decoding it."""
    if not audio.startswith("hub:") and not os.path.exists(audio):
        return Measured(reason="missing", detail="no such file")
    try:
        if check == "header":
            return Measured(seconds=declared_seconds(audio))
        waveform, rate = decode(audio)
        return Measured(seconds=waveform.shape[1] / rate)
    except AudioError as error:
        return Measured(reason=error.reason, detail=error.detail)


def _stamp(audio: str) -> str:
    """Return what changes when a file does; empty for what is not a file, which is never cached."""
    try:
        status = os.stat(audio)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(cache: Path, check: str, stamps: dict[str, str]) -> Measurements:
    """Return the cached measurements that still hold."""
    if not cache.is_file():
        return {}
    return {
        row["audio"]: Measured(seconds=row["seconds"], reason=row["reason"], detail=row["detail"])
        for row in read_jsonl(cache)
        if row["check"] == check and row["stamp"] == stamps.get(row["audio"])
    }
