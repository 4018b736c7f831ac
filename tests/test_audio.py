"""Any file becomes 16 kHz mono, or an AudioError that says why not."""

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data import audio
from data.audio import AudioError, check_length, declared_seconds, decode, load
from data.utterance import Utterance

WriteClip = Callable[..., Path]


def utterance(path: Path, **settings: Any) -> Utterance:
    """Return an utterance of a file."""
    return Utterance(id=path.name, audio=str(path), text="one", **settings)


def loudest_hertz(samples: torch.Tensor) -> float:
    """Return the loudest frequency of 16 kHz audio."""
    spectrum = torch.fft.rfft(samples).abs()
    return float(spectrum.argmax()) * 16_000 / len(samples)


@pytest.fixture
def half(tmp_path: Path, write_clip: WriteClip) -> Path:
    """Return an mp3 of 4 s of which half the bytes are missing."""
    whole = write_clip(tmp_path / "whole.mp3", 4.0, 48_000)
    content = whole.read_bytes()
    (tmp_path / "half.mp3").write_bytes(content[: len(content) // 2])
    return tmp_path / "half.mp3"


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_any_rate_becomes_16_khz_with_its_length_and_pitch(
    rate: int, suffix: str, tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / f"tone.{suffix}", 1.5, rate, frequency=1000.0)
    samples = load(utterance(path))
    assert samples.dtype == torch.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(24_000, abs=1)
    assert loudest_hertz(samples) == pytest.approx(1000, abs=2)
    assert samples[4000:20_000].abs().max() == pytest.approx(0.3, abs=0.02)


def test_16_khz_is_left_as_it_is(tmp_path: Path) -> None:
    tone = np.random.default_rng(0).uniform(-1, 1, 800).astype("float32")
    soundfile.write(tmp_path / "a.wav", tone, 16_000, subtype="FLOAT")
    assert torch.equal(load(utterance(tmp_path / "a.wav")), torch.from_numpy(tone))


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.full(1600, 0.5), np.full(1600, -0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    torch.testing.assert_close(load(utterance(tmp_path / "a.wav")), torch.full((1600,), 0.2))
    waveform, rate = decode(str(tmp_path / "a.wav"))
    assert (waveform.shape, rate) == ((2, 1600), 16_000)


def test_a_kernel_is_built_once_for_a_rate() -> None:
    assert audio._resampler(44_100) is audio._resampler(44_100)
    assert audio._resampler(44_100) is not audio._resampler(48_000)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_slice_is_that_part_of_the_whole(
    suffix: str, tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", 3.0)
    whole, _ = decode(str(path))
    part, rate = decode(str(path), 1.0, 2.25)
    assert part.shape[1] == 1.25 * rate
    # an mp3's frame borrows bits from those before it: up to 0.25 s after a seek are not the audio
    torch.testing.assert_close(part, whole[:, 16_000:36_000], atol=1e-4, rtol=0)
    assert decode(str(path), 2.0)[0].shape[1] == 16_000


def test_a_slice_behind_the_end_is_refused(tmp_path: Path, write_clip: WriteClip) -> None:
    path = write_clip(tmp_path / "a.wav", 1.0)
    for start, end in ((5.0, 6.0), (5.0, None), (1.0, None), (0.5, 3.0), (-1.0, None)):
        with pytest.raises(AudioError):
            decode(str(path), start, end)


def test_half_an_mp3_is_truncated_though_its_header_announces_all(
    half: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert declared_seconds(str(half)) == pytest.approx(4.0, abs=0.1)
    with pytest.raises(AudioError) as told:
        decode(str(half))
    assert told.value.reason == "truncated"
    assert "of 4.00 s declared" in told.value.detail
    assert capfd.readouterr().err == ""  # libmpg123 warns there, into a progress display


def test_stderr_is_open_again_after_any_decode(
    half: Path, write_clip: WriteClip, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = write_clip(half.with_name("a.mp3"), 0.5)

    def attempt(number: int) -> None:
        with suppress(AudioError):
            decode(str(half if number % 2 else whole))

    opened = len(os.listdir("/dev/fd"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(64)))
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"
    assert len(os.listdir("/dev/fd")) <= opened + 1  # nothing leaks


def test_audio_shorter_than_the_corpus_says_is_truncated(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / "a.wav", 2.0)
    assert len(load(utterance(path, seconds=2.05))) == 32_000
    with pytest.raises(AudioError) as told:
        load(utterance(path, seconds=4.0))
    assert (told.value.reason, told.value.detail) == (
        "truncated",
        "2.00 s decoded of 4.00 s declared",
    )


def test_audio_much_longer_than_the_corpus_says_is_refused(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    # its place in a bucket, and the memory of its pass, were planned by the declared length
    path = write_clip(tmp_path / "a.wav", 31.0)
    with pytest.raises(AudioError):
        load(utterance(path, seconds=2.0))


def test_length_has_a_tolerance_and_silence_has_none() -> None:
    check_length(9.7, 10.0)
    check_length(0.5, 0.0)  # nobody said how long
    for decoded, declared in ((9.6, 10.0), (0.0, 0.0), (0.0, 0.1)):
        with pytest.raises(AudioError, match="truncated"):
            check_length(decoded, declared)


def broken_files(folder: Path) -> dict[str, bytes]:
    """Write files that are no audio."""
    files = {"empty.mp3": b"", "text.mp3": b"hello " * 500, "zero.wav": b"\0" * 2000}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_what_is_no_audio_is_unreadable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in [*broken_files(tmp_path), "missing.wav", "."]:
        for attempt in (decode, declared_seconds):
            with pytest.raises(AudioError) as told:
                attempt(str(tmp_path / name))
            assert told.value.reason == "unreadable", name
            assert told.value.detail
    assert capfd.readouterr().err == ""


def test_headerless_audio_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"\0" * 3200)
    for attempt in (decode, declared_seconds):
        with pytest.raises(AudioError, match="unreadable"):
            attempt(str(tmp_path / "a.raw"))


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="truncated"):
        decode(str(tmp_path / "a.wav"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    samples = np.zeros(1600, dtype="float32")
    samples[800] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError) as told:
        decode(str(tmp_path / "a.wav"))
    assert told.value.reason == "not a number"


def test_an_audio_error_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(AudioError("truncated", "1 s of 2 s")))
    assert (error.reason, error.detail) == ("truncated", "1 s of 2 s")
