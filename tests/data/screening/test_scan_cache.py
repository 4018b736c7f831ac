"""A scan's results survive a crash, and concurrent scans of the same corpus."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.config import DataConfig
from data.screening import durations as scanning
from data.screening import scan_cache as measurements
from data.screening.durations import Measurements, measure, scan
from data.screening.scan_cache import ABANDONED_SECONDS, Measurement, MeasurementCache, read_rows
from data.utterance import Utterance

WriteClip = Callable[..., Path]
HERE = DataConfig(workers=0)


@pytest.fixture
def clips(tmp_path: Path, write_clip: WriteClip) -> list[Utterance]:
    """Return six utterances of 0.1 to 0.6 s, without durations."""
    paths = [write_clip(tmp_path / f"{n}.wav", n / 10) for n in range(1, 7)]
    return [Utterance(id=path.stem, audio=str(path), text="one") for path in paths]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the files that scans open from now on; results are flushed at once."""
    names: list[str] = []

    def watched(audio: str, check: str) -> Measurement:
        names.append(Path(audio).stem)
        return measure(audio, check)

    monkeypatch.setattr(scanning, "measure", watched)
    monkeypatch.setattr(measurements, "FLUSH_SECONDS", 0.0)
    return names


def look(clips: list[Utterance], cache: Path) -> Measurements:
    """Scan without a progress bar."""
    return scan(clips, HERE, cache, show=False)


def beside(cache: Path) -> list[str]:
    """Return the names of the files next to the cache."""
    return [path.name for path in cache.parent.glob(f"{cache.name}.*")]


def die_at(clips: list[Utterance], number: int, cache: Path) -> None:
    """Scan, and be killed while measuring a clip."""

    def deadly(audio: str, check: str) -> Measurement:
        if audio == clips[number].audio:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(audio, check)

    scanning.measure = deadly
    look(clips, cache)


def test_a_scan_that_was_killed_is_gone_on_with(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    killed = multiprocessing.get_context("fork").Process(target=die_at, args=(clips, 4, cache))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not cache.exists()
    found = look(clips, cache)
    assert opened == ["5", "6"]
    lengths = [found[u.audio].seconds for u in clips]
    assert lengths == pytest.approx([n / 10 for n in range(1, 7)])
    assert beside(cache) == []
    assert found == look(clips, cache)
    assert opened == ["5", "6"]


def test_a_scan_that_ends_with_an_error_has_written_down_what_it_found(
    clips: list[Utterance], tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, watched = tmp_path / "cache.jsonl", scanning.measure

    def failing(audio: str, check: str) -> Measurement:
        if audio == clips[3].audio:
            raise MemoryError
        return watched(audio, check)

    monkeypatch.setattr(measurements, "FLUSH_SECONDS", 1000.0)
    with monkeypatch.context() as broken:
        broken.setattr(scanning, "measure", failing)
        with pytest.raises(MemoryError):
            look(clips, cache)
    assert opened == ["1", "2", "3"]
    look(clips, cache)
    assert opened == ["1", "2", "3", "4", "5", "6"]


def test_two_scans_at_once_find_everything_and_leave_one_cache(
    clips: list[Utterance], tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, watched, others = tmp_path / "cache.jsonl", scanning.measure, Measurements()

    def interrupted(audio: str, check: str) -> Measurement:
        if audio == clips[1].audio:
            others.update(look(clips[2:], cache))  # another run begins and ends meanwhile
        return watched(audio, check)

    with monkeypatch.context() as busy:
        busy.setattr(scanning, "measure", interrupted)
        mine = look(clips[:4], cache)
    assert len(mine) == len(others) == 4
    opened.clear()
    assert look(clips, cache) == mine | others
    assert opened == []
    assert beside(cache) == []


def test_rows_that_cannot_be_read_cost_their_own_measurement(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    found = look(clips, cache)
    lines = cache.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + lines[1]  # cut off, and written once more
    lines[3] = b'{"audio": "\xff"}\n[]\n7\n'
    cache.write_bytes(b"".join(lines))
    opened.clear()
    assert look(clips, cache) == found
    assert opened == ["2", "4"]


def test_files_of_processes_that_run_are_kept_and_those_of_others_moved_into_the_cache(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    look(clips, cache)
    rows = cache.read_bytes().splitlines(keepends=True)
    cache.unlink()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = socket.gethostname()
    names = [
        f"0-{here}-{os.getpid()}.found",
        f"1-{here}-{ended.pid}.found",
        "2-other-host.of.a-net-1.found",
        "3-other-host.of.a-net-1.found",
        f"4-{here}-{ended.pid}.asked",
    ]
    for name, row in zip(names, rows, strict=False):
        (tmp_path / f"{cache.name}.{name}").write_bytes(row)
    old = time.time() - ABANDONED_SECONDS - 60
    os.utime(tmp_path / f"{cache.name}.{names[3]}", (old, old))
    opened.clear()
    look(clips, cache)
    assert opened == ["5", "6"]  # all that was found is known, whoever found it
    assert sorted(beside(cache)) == sorted(f"{cache.name}.{names[n]}" for n in (0, 2))
    assert {Path(audio).stem for audio, _, _ in read_rows(cache)} == {"2", "4", "5", "6"}


def test_what_is_not_a_file_is_never_remembered(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path / "cache.jsonl")
    stamps = {"hub:{}": "", "/a.wav": "decode 1 2"}
    appender = cache.appender(stamps)
    for audio in stamps:
        appender.add(audio, Measurement(seconds=1.0))
    appender.flush()
    again = MeasurementCache(cache.path)
    assert list(again.lookup(stamps)) == ["/a.wav"]
    cache.consolidate(dict.fromkeys(stamps, Measurement(seconds=1.0)), stamps)
    assert [audio for audio, _, _ in read_rows(cache.path)] == ["/a.wav"]
