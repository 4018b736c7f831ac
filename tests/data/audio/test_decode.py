"""Any file is decoded to 16 kHz mono, or raises an AudioError with the reason."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data.audio import decode as audio
from data.audio.decode import (
    BLOCK,
    MAX_SAMPLES,
    check_length,
    declared_seconds,
    decode,
    load_audible_audio,
    load_audio,
    measured_seconds,
)
from data.audio.open_audio import MAX_CHANNELS, AudioError
from data.audio.resample import resampler
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
    samples = load_audio(utterance(path))
    assert samples.dtype == torch.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(24_000, abs=1)
    assert loudest_hertz(samples) == pytest.approx(1000, abs=2)
    assert samples[4000:20_000].abs().max() == pytest.approx(0.3, abs=0.02)


def test_16_khz_is_left_as_it_is(tmp_path: Path) -> None:
    tone = np.random.default_rng(0).uniform(-1, 1, 800).astype("float32")
    soundfile.write(tmp_path / "a.wav", tone, 16_000, subtype="FLOAT")
    assert torch.equal(load_audio(utterance(tmp_path / "a.wav")), torch.from_numpy(tone))


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.full(1600, 0.5), np.full(1600, -0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    torch.testing.assert_close(load_audio(utterance(tmp_path / "a.wav")), torch.full((1600,), 0.2))
    mixed, rate = decode(str(tmp_path / "a.wav"))
    assert (mixed.shape, rate) == ((1600,), 16_000)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_slice_is_that_part_of_the_whole(
    suffix: str, tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", 3.0)
    whole, _ = decode(str(path))
    part, rate = decode(str(path), 1.0, 2.25)
    assert len(part) == 1.25 * rate
    # an mp3's frame borrows bits from those before it: up to 0.25 s after a seek are not the audio
    torch.testing.assert_close(part, whole[16_000:36_000], atol=1e-4, rtol=0)
    assert len(decode(str(path), 2.0)[0]) == 16_000


def test_a_slice_behind_the_end_is_refused(tmp_path: Path, write_clip: WriteClip) -> None:
    path = write_clip(tmp_path / "a.wav", 1.0)
    for start, end in ((5.0, 6.0), (5.0, None), (1.0, None), (0.5, 3.0), (-1.0, None)):
        with pytest.raises(AudioError):
            decode(str(path), start, end)


def test_half_an_mp3_is_truncated_though_its_header_announces_all(
    half: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert declared_seconds(str(half)) == pytest.approx(4.0, abs=0.1)
    with pytest.raises(AudioError) as error:
        decode(str(half))
    assert error.value.reason == "truncated"
    assert "of 4.00 s declared" in error.value.detail
    assert capfd.readouterr().err == ""  # libmpg123 warns there, into a progress display


def test_stderr_is_open_again_after_any_decode(
    half: Path, write_clip: WriteClip, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = write_clip(half.with_name("a.mp3"), 0.5)

    def attempt(number: int) -> None:
        with suppress(AudioError):
            decode(str(half if number % 2 else whole))

    open_audio = len(os.listdir("/dev/fd"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(64)))
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"
    assert len(os.listdir("/dev/fd")) <= open_audio + 1  # nothing leaks


def test_audio_shorter_than_the_corpus_says_is_truncated(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / "a.wav", 2.0)
    assert len(load_audio(utterance(path, seconds=2.05))) == 32_000
    with pytest.raises(AudioError) as error:
        load_audio(utterance(path, seconds=4.0))
    assert (error.value.reason, error.value.detail) == (
        "truncated",
        "2.00 s decoded of 4.00 s declared",
    )


def test_audio_much_longer_than_the_corpus_says_is_refused(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    # its place in a bucket, and the memory of its pass, were planned by the declared length
    path = write_clip(tmp_path / "a.wav", 31.0)
    with pytest.raises(AudioError):
        load_audio(utterance(path, seconds=2.0))


def test_length_has_a_tolerance_and_silence_has_none() -> None:
    check_length(9.7, 10.0)
    check_length(0.5, 0.0)  # nobody said how long
    for decoded, declared in ((9.6, 10.0), (0.0, 0.0), (0.0, 0.1)):
        with pytest.raises(AudioError, match="truncated"):
            check_length(decoded, declared)


def broken_files(folder: Path) -> dict[str, bytes]:
    """Write files that are not audio."""
    files = {"empty.mp3": b"", "text.mp3": b"hello " * 500, "zero.wav": b"\0" * 2000}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_files_without_audio_is_unreadable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.wav")  # to read it would be to wait for ever
    for name in [*broken_files(tmp_path), "missing.wav", ".", "pipe.wav", "a\0.wav"]:
        for attempt in (decode, declared_seconds, measured_seconds):
            with pytest.raises(AudioError) as error:
                attempt(str(tmp_path / name))
            reason = "missing" if name == "missing.wav" else "unreadable"
            assert error.value.reason == reason, name
            assert error.value.detail
    assert capfd.readouterr().err == ""


def test_what_may_not_be_read_is_unreadable(tmp_path: Path, write_clip: WriteClip) -> None:
    path, user = write_clip(tmp_path / "a.wav", 0.5), os.geteuid()
    path.chmod(0)
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(AudioError, match="unreadable"):
            decode(str(path))
    finally:
        os.seteuid(user)


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
    with pytest.raises(AudioError) as error:
        decode(str(tmp_path / "a.wav"))
    assert error.value.reason == "not a number"


def test_an_audio_error_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(AudioError("truncated", "1 s of 2 s")))
    assert (error.reason, error.detail) == ("truncated", "1 s of 2 s")


def lying_wav(path: Path, *, channels: int, rate: int, seconds: float) -> Path:
    """Write a short wav whose header declares a longer duration."""
    soundfile.write(path, np.zeros((rate // 100, 1)), rate)
    content = bytearray(path.read_bytes())
    size = round(seconds * rate) * channels * 2
    content[4:8] = (size + 36).to_bytes(4, "little")
    content[22:24] = channels.to_bytes(2, "little")
    content[24:28] = rate.to_bytes(4, "little")
    content[28:32] = (rate * channels * 2).to_bytes(4, "little")
    content[32:34] = (channels * 2).to_bytes(2, "little")
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_ten_minutes_of_eight_channels_take_no_memory(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 16_000, 8) as file:
        for _ in range(60):
            file.write(np.zeros((16_000 * 10, 8), dtype="int16"))
    lying_wav(tmp_path / "lying.wav", channels=8, rate=16_000, seconds=4 * 3600)
    code = """
import resource, sys
from data.audio.decode import AudioError, decode, declared_seconds, measured_seconds
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
assert declared_seconds("long.flac") == 600  # 307 MB decoded
before = peak()
for attempt, path in ((measured_seconds, "long.flac"), (decode, "lying.wav")):
    try: attempt(path)
    except AudioError: pass
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert int(done.stdout) < 60  # MB, in a process of its own


def test_more_than_can_be_held_is_refused_before_it_is_decoded(
    tmp_path: Path, write_clip: WriteClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.wav", 2.0)
    monkeypatch.setattr(audio, "MAX_SAMPLES", 16_000)
    with pytest.raises(AudioError) as error:
        decode(str(path))
    assert error.value.reason == "too much"
    assert error.value.detail == "2.00 s at 16000 Hz; the limit is 1.00 s"
    assert len(decode(str(path), 0.5, 1.5)[0]) == 16_000  # slices of a long file are not long
    assert measured_seconds(str(path)) == 2.0
    assert MAX_SAMPLES / 48_000 == 4 * 3600


def test_audio_is_the_same_whatever_the_blocks_it_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    soundfile.write(tmp_path / "a.wav", noise, 8_000)
    whole, _ = decode(str(tmp_path / "a.wav"), 0.1, 0.6)
    seconds = measured_seconds(str(tmp_path / "a.wav"))
    monkeypatch.setattr(audio, "BLOCK", 700)
    assert torch.equal(decode(str(tmp_path / "a.wav"), 0.1, 0.6)[0], whole)
    assert measured_seconds(str(tmp_path / "a.wav")) == seconds == 0.625
    assert BLOCK * 4 <= 2**22


@pytest.mark.parametrize(
    ("channels", "rate"), [(MAX_CHANNELS + 1, 16_000), (1, 999), (1, 768_001), (1, 2_000_000_000)]
)
def test_a_header_out_of_all_bounds_is_refused_with_its_figures(
    channels: int, rate: int, tmp_path: Path
) -> None:
    path = lying_wav(tmp_path / "a.wav", channels=1, rate=16_000, seconds=0.01)
    content = bytearray(path.read_bytes())
    content[22:24], content[24:28] = channels.to_bytes(2, "little"), rate.to_bytes(4, "little")
    content[32:34] = (channels * 2).to_bytes(2, "little")
    path.write_bytes(content)
    for attempt in (decode, declared_seconds, measured_seconds):
        with pytest.raises(AudioError) as error:
            attempt(str(path))
        assert error.value.reason == "unreadable"
        assert f"{channels} channels at {rate} Hz; at most 32 channels" in error.value.detail


@pytest.mark.parametrize("value", [0.0, 0.25, -1.0])
def test_silence_and_a_constant_are_silent_and_a_whisper_is_not(
    value: float, tmp_path: Path
) -> None:
    samples = np.full(1600, value, dtype="float32")
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    for attempt in (measured_seconds, lambda path: load_audible_audio(utterance(Path(path)))):
        with pytest.raises(AudioError) as error:
            attempt(str(tmp_path / "a.wav"))
        assert error.value.reason == "silent"
        assert f"{value:.5f}" in error.value.detail
    assert len(load_audio(utterance(tmp_path / "a.wav"))) == 1600  # what is scored may be silent
    samples[800] += 2.0**-14
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert len(load_audible_audio(utterance(tmp_path / "a.wav"))) == 1600
    assert measured_seconds(str(tmp_path / "a.wav")) == 0.1


@pytest.mark.parametrize("rate", [7_999, 16_001, 16_007, 44_101, 48_017, 191_999])
def test_an_odd_rate_takes_a_small_kernel_and_keeps_length_and_pitch(
    rate: int, tmp_path: Path, write_clip: WriteClip
) -> None:
    assert sum(weights.numel() for _, weights in resampler(rate).groups) <= 1_050_000
    path = write_clip(tmp_path / "a.wav", 1.5, rate, frequency=1000.0)
    samples = load_audio(utterance(path))
    assert len(samples) == pytest.approx(24_000, rel=6e-4)
    assert loudest_hertz(samples) == pytest.approx(1000, abs=2)


def test_decoding_works_with_a_closed_stderr_and_leaves_it_closed(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / "a.mp3", 0.5)
    saved = os.dup(2)
    try:
        os.close(2)
        assert len(load_audio(utterance(path))) > 7000
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def test_a_file_without_a_byte_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").touch()
    with pytest.raises(AudioError) as found:
        decode(str(tmp_path / "a.mp3"))
    assert (found.value.reason, found.value.detail) == ("unreadable", "the file is empty")
