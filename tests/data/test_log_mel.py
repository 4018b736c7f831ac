"""Log-mel features equal transformers' own."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from data.log_mel import (
    HOP_LENGTH,
    N_FRAMES,
    N_SAMPLES,
    LogMel,
    exact_div,
    frames_of,
    pad_features,
)


def speechlike(seconds: float) -> NDArray[np.float32]:
    """Return noise and tones whose loudness changes."""
    rng = np.random.default_rng(round(seconds * 100))
    time = np.arange(round(seconds * 16_000)) / 16_000
    wave = np.sin(2 * np.pi * 300 * time) * np.sin(2 * np.pi * 2 * time)
    wave += 0.1 * rng.standard_normal(len(time)) * (time % 1 > 0.5)
    return (0.2 * wave).astype("float32")


@cache
def original(seconds: float, n_mels: int) -> torch.Tensor:
    """Return transformers' features of speechlike(), padded to 30 s. Shape: (n_mels, 3000)."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    found = extractor(speechlike(seconds), sampling_rate=16_000, return_tensors="pt")
    return torch.as_tensor(found.input_features[0])


def padded(wave: NDArray[np.float32], frames: int) -> torch.Tensor:
    """Return the waveform with silence after it. Shape: (1, frames * 160)."""
    audio = torch.zeros(1, frames * HOP_LENGTH)
    audio[0, : len(wave)] = torch.from_numpy(wave)
    return audio


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.3, 4.321, 30.0])
def test_padded_features_equal_the_originals(seconds: float, n_mels: int) -> None:
    ours = LogMel(n_mels)(padded(speechlike(seconds), N_FRAMES))[0]
    assert ours.shape == (n_mels, N_FRAMES)
    torch.testing.assert_close(ours, original(seconds, n_mels), atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("extra", [0, 1, 16, 100])
def test_short_features_equal_the_first_frames_of_the_originals(extra: int, n_mels: int) -> None:
    seconds = 4.321
    frames = frames_of(seconds) + extra
    ours = LogMel(n_mels)(padded(speechlike(seconds), frames))[0]
    torch.testing.assert_close(ours, original(seconds, n_mels)[:, :frames], atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_equal_the_originals_to_the_last_digits(n_mels: int) -> None:
    # computed in float32 they are wrong by 0.3 %, and features of real speech by more than 1e-4
    theirs = torch.as_tensor(WhisperFeatureExtractor(feature_size=n_mels).mel_filters.T)
    torch.testing.assert_close(LogMel(n_mels).filters, theirs.float(), rtol=1e-5, atol=1e-9)


def test_a_loud_neighbour_in_the_batch_changes_nothing() -> None:
    quiet, loud = padded(speechlike(2.0) * 0.01, 208), padded(speechlike(2.05), 208)
    mel = LogMel(80)
    together = mel(torch.cat([quiet, loud]))
    torch.testing.assert_close(together[:1], mel(quiet), atol=1e-5, rtol=0)


def test_longer_than_30_s_equals_the_originals_untruncated() -> None:
    wave = speechlike(31.0)
    extractor = WhisperFeatureExtractor()
    whole = extractor(
        wave, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest"
    ).input_features
    torch.testing.assert_close(LogMel(80)(padded(wave, 3100)), whole, atol=1e-4, rtol=0)


def test_silence_is_finite() -> None:
    assert LogMel(80)(torch.zeros(2, 1600)).isfinite().all()


def test_half_a_frame_is_refused() -> None:
    with pytest.raises(AssertionError):
        LogMel(80)(torch.zeros(1, 1601))


def test_nothing_may_be_left_over() -> None:
    assert exact_div(N_SAMPLES, HOP_LENGTH) == N_FRAMES
    with pytest.raises(AssertionError, match="7, 2"):
        exact_div(7, 2)


def test_frames_cover_the_seconds() -> None:
    assert [frames_of(s) for s in (0.0, 0.001, 0.01, 1.0, 29.991, 30.0)] == [
        0,
        1,
        1,
        100,
        3000,
        3000,
    ]
    for samples in range(1, 480_000, 997):
        frames = frames_of(samples / 16_000)
        assert frames * HOP_LENGTH >= samples
        assert (frames - 2) * HOP_LENGTH < samples  # at most one more than needed


@pytest.mark.parametrize("loudness", [1.0, 1e-3, 0.0])
def test_silence_behind_features_is_silence_behind_the_waveform(loudness: float) -> None:
    mel, audio = LogMel(80), torch.zeros(2, 128 * HOP_LENGTH)
    audio[:, : 120 * HOP_LENGTH] = loudness * torch.randn(2, 120 * HOP_LENGTH)
    padded = mel(torch.nn.functional.pad(audio, (0, N_SAMPLES - audio.shape[1])))
    torch.testing.assert_close(pad_features(mel(audio)), padded, atol=1e-5, rtol=0)


SOUNDS = {
    "speech": torch.from_numpy(speechlike(3.0)),
    "quiet noise": 1e-4 * torch.randn(48_000, generator=torch.Generator().manual_seed(0)),
    "digital silence": torch.zeros(48_000),
}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("sound", SOUNDS)
def test_features_are_the_same_under_autocast(sound: str, precision: torch.dtype) -> None:
    mel, audio = LogMel(80), SOUNDS[sound][None]
    with torch.autocast("cpu", dtype=precision):
        found = mel(audio)
    assert found.dtype == torch.float32
    assert torch.equal(found, mel(audio))
