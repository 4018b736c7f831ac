"""Measuring durations, and caching them between scans."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import DataConfig
from data.screening import durations as scanning
from data.screening.durations import Measurement, Measurements, measure, scan
from data.utterance import Utterance

WriteClip = Callable[..., Path]


@pytest.fixture
def clips(tmp_path: Path, write_clip: WriteClip) -> list[Utterance]:
    """Return three utterances of 1, 2 and 3 s, without durations."""
    paths = [write_clip(tmp_path / f"{n}.mp3", float(n), 16_000) for n in (1, 2, 3)]
    return [Utterance(id=path.name, audio=str(path), text="one") for path in paths]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the files that scans open from now on."""
    names: list[str] = []

    def watched(audio: str, check: str) -> Measurement:
        names.append(Path(audio).name)
        return measure(audio, check)

    monkeypatch.setattr(scanning, "measure", watched)
    return names


HERE = DataConfig(workers=0)  # in this process, where the names of opened files can be seen


def look(clips: list[Utterance], cache: Path, config: DataConfig = HERE) -> Measurements:
    """Scan without a progress bar."""
    return scan(clips, config, cache, show=False)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("check", ["header", "decode"])
def test_lengths_are_measured(
    check: str, workers: int, clips: list[Utterance], tmp_path: Path
) -> None:
    config = DataConfig(scan=check, workers=workers)  # type: ignore[arg-type]
    found = look(clips, tmp_path / "cache.jsonl", config)
    lengths = [found[u.audio].seconds for u in clips]
    assert lengths == pytest.approx([1, 2, 3], abs=0.01)
    assert not any(m.reason for m in found.values())


def test_a_second_scan_opens_nothing(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "deep" / "cache.jsonl"
    first = look(clips, cache)
    assert sorted(opened) == ["1.mp3", "2.mp3", "3.mp3"]
    opened.clear()
    assert look(clips, cache) == first
    assert opened == []


def test_a_file_that_changed_is_measured_again(
    clips: list[Utterance], tmp_path: Path, opened: list[str], write_clip: WriteClip
) -> None:
    cache = tmp_path / "cache.jsonl"
    look(clips, cache)
    opened.clear()
    write_clip(Path(clips[1].audio), 2.5, 16_000)
    found = look(clips, cache)
    assert opened == ["2.mp3"]
    assert found[clips[1].audio].seconds == pytest.approx(2.5, abs=0.01)
    assert len(found) == 3
    os.utime(clips[0].audio, (1, 1))  # as large as before, but another time
    opened.clear()
    look(clips, cache)
    assert opened == ["1.mp3"]


def test_a_scan_of_one_split_does_not_forget_another(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    look(clips[:1], cache)
    look(clips[1:], cache)
    opened.clear()
    look(clips[:1], cache)
    look(clips[1:], cache)
    assert opened == []


def test_checking_headers_does_not_decode(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    look(clips, cache, DataConfig(scan="header", workers=0))
    opened.clear()
    look(clips, cache)
    assert len(opened) == 3


def test_known_lengths_are_believed_where_only_headers_are_checked(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    known = [replace(clips[0], seconds=1.0), replace(clips[1], start=0.5, end=1.0), clips[2]]
    look(known, tmp_path / "cache.jsonl", DataConfig(scan="header", workers=0))
    assert opened == ["3.mp3"]


def test_two_slices_of_a_file_open_it_once(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    halves = [replace(clips[2], id=str(n), start=n / 2, end=(n + 1) / 2) for n in range(4)]
    assert len(look(halves, tmp_path / "cache.jsonl")) == 1
    assert opened == ["3.mp3"]


def test_what_is_broken_is_found_and_remembered(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    whole = Path(clips[2].audio).read_bytes()
    Path(clips[2].audio).write_bytes(whole[: len(whole) // 2])
    Path(clips[1].audio).write_bytes(b"text")
    Path(clips[0].audio).unlink()
    for _ in range(2):
        found = look(clips, tmp_path / "cache.jsonl")
        reasons = [found[u.audio].reason for u in clips]
        assert reasons == ["missing", "unreadable", "truncated"]
        assert all(found[u.audio].detail for u in clips)
    # what is not there has nothing to be remembered by
    assert sorted(opened) == ["1.mp3", "1.mp3", "2.mp3", "3.mp3"]


def test_a_progress_bar_is_shown_only_if_requested(
    clips: list[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look(clips, tmp_path / "cache.jsonl")
    assert capsys.readouterr() == ("", "")
    scan(clips, DataConfig(workers=0), tmp_path / "other.jsonl", show=True)


def test_half_a_cache_costs_a_scan_and_no_traceback(
    clips: list[Utterance], tmp_path: Path, opened: list[str]
) -> None:
    cache = tmp_path / "cache.jsonl"
    look(clips, cache)
    opened.clear()
    cache.write_bytes(cache.read_bytes()[:-30])
    look(clips, cache)
    assert 1 <= len(opened) <= 3
