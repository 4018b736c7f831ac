"""Decode audio files, mix them to mono, and resample them to 16 kHz float32.

A wrong header cannot exhaust memory: channels, rate and length are bounded, and audio is read and
mixed block by block.
"""

import math
from collections.abc import Iterator

import soundfile
import torch
from torch import Tensor

from data.audio.open_audio import AudioError, open_audio
from data.audio.resample import resampler
from data.log_mel import HOP_LENGTH, SAMPLE_RATE, frames_of
from data.utterance import Utterance

TOLERANCE = 0.02  # of the declared length; mp3 encoders pad by up to 0.1 s
PADDING_SECONDS = 0.12  # what an mp3 encoder may add or hide
LEAD_SECONDS = 0.5  # decoded before a slice, since mp3 frames use bits of earlier ones
BLOCK = 2**20  # values of all channels per read: 4 MB
MAX_SECONDS = 4 * 3600  # of a clip decoded at once, as evaluation does with long audio
MAX_SAMPLES = (
    MAX_SECONDS * 48_000
)  # of such a clip, mixed: 2.8 GB, and about twice that while resampling
SILENT = 2.0**-14  # range of samples below which 16 bits cannot tell audio from a constant


def load_audio(utterance: Utterance) -> Tensor:
    """Return an utterance's audio. Shape: (samples,), float32 at 16 kHz.

    Raises:
        AudioError: it cannot be read, is shorter or much longer than declared, or has NaN or
            infinite samples.
    """
    planned = utterance.seconds
    # its bucket and the memory of its forward pass were planned for this length
    max_seconds = planned * (1 + TOLERANCE) + PADDING_SECONDS if planned else math.inf
    samples, rate = decode(utterance.audio, utterance.start, utterance.end, max_seconds)
    check_length(len(samples) / rate, planned)
    resampled = samples if rate == SAMPLE_RATE else resampler(rate)(samples)
    # samples that an mp3 encoder added must not exceed the planned frames
    return resampled[: frames_of(planned) * HOP_LENGTH] if planned else resampled


def load_audible_audio(utterance: Utterance) -> Tensor:
    """Return an utterance's audio as load_audio(); raise an error if it is silent.

    Raises:
        AudioError: as load_audio(), or it is silent.
    """
    samples = load_audio(utterance)
    check_audible(*samples.aminmax())
    return samples


def decode(
    audio: str, start: float = 0.0, end: float | None = None, max_seconds: float = math.inf
) -> tuple[Tensor, int]:
    """Decode audio and mix it to mono.

    Args:
        audio: Utterance.audio: a path, or a locator of a dataset's row or an archive's member.
        start: in seconds.
        end: in seconds. None: the end of the audio.
        max_seconds: longer audio is refused before it is decoded.

    Returns:
        The samples, shape (samples,), float32, and their rate in Hz.

    Raises:
        AudioError: as load_audio().
    """
    with open_audio(audio) as file:
        rate: int = file.samplerate
        first = round(start * rate)
        last = file.frames if end is None else first + round((end - start) * rate)
        declared, limit = (last - first) / rate, min(max_seconds, MAX_SAMPLES / rate)
        if declared > limit:
            raise AudioError(
                "too much", f"{declared:.2f} s at {rate} Hz; the limit is {limit:.2f} s"
            )
        lead = max(0, min(first, round(LEAD_SECONDS * rate)))
        file.seek(first - lead)
        samples = torch.cat([torch.empty(0), *_mixed(file, last - first + lead)])[lead:]
    check_length(len(samples) / rate, declared)
    return samples, rate


def measured_seconds(audio: str) -> float:
    """Return the decoded duration in seconds, decoding all audio block by block.

    Raises:
        AudioError: as load_audio(), or it is silent.
    """
    samples, low, high = 0, math.inf, -math.inf
    with open_audio(audio) as file:
        for block in _mixed(file, file.frames):
            lowest, highest = map(float, block.aminmax())
            samples, low, high = samples + len(block), min(low, lowest), max(high, highest)
        seconds: float = samples / file.samplerate
        check_length(seconds, file.frames / file.samplerate)
    check_audible(low, high)
    return seconds


def declared_seconds(audio: str) -> float:
    """Return the duration in a file's header, in seconds.

    Raises:
        AudioError: there is no readable header.
    """
    with open_audio(audio) as file:
        return float(file.frames / file.samplerate)


def check_length(decoded: float, declared: float) -> None:
    """Raise an error if audio is shorter than declared: half an mp3 still declares its full length.

    Args:
        decoded: seconds.
        declared: seconds; 0 if unknown.

    Raises:
        AudioError: more than the tolerance is missing.
    """
    if decoded < declared * (1 - TOLERANCE) - PADDING_SECONDS or decoded == 0:
        raise AudioError("truncated", f"{decoded:.2f} s decoded of {declared:.2f} s declared")


def check_audible(low: float | Tensor, high: float | Tensor) -> None:
    """Raise an error for digital silence, or a constant.

    Args:
        low: the lowest sample.
        high: the highest sample.

    Raises:
        AudioError: their difference is below SILENT.
    """
    if high - low < SILENT:
        raise AudioError("silent", f"all samples lie between {low:.5f} and {high:.5f}")


def _mixed(file: soundfile.SoundFile, frames: int) -> Iterator[Tensor]:
    """Yield up to `frames` frames in blocks, mixed to mono. Shape of a block: (samples,)."""
    size = BLOCK // file.channels
    while len(block := file.read(min(size, frames), dtype="float32", always_2d=True)):
        channels = torch.from_numpy(block)
        mono = channels.mean(dim=1) if channels.shape[1] > 1 else channels[:, 0]
        low, high = mono.aminmax()  # seven times as fast as isfinite(); NaN propagates to both
        if not math.isfinite(float(high) - float(low)):
            raise AudioError("not a number", "the samples hold NaN or infinity")
        yield mono
        frames -= len(block)
