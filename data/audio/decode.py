"""Decode, mix to mono, resample: any file to 16 kHz float32.

Nothing that a header announces is believed with memory: channels, rate and length are bounded, and
audio is read and mixed a block at a time.
"""

import math
from collections.abc import Iterator

import soundfile
import torch
from torch import Tensor

from data.audio.resample import resampler
from data.audio.source import AudioError, opened
from data.log_mel import HOP_LENGTH, SAMPLE_RATE, frames_of
from data.utterance import Utterance

TOLERANCE = 0.02  # of the declared length; mp3 encoders pad by up to 0.1 s
PADDING_SECONDS = 0.12  # what an mp3 encoder may add or hide
LEAD_SECONDS = 0.5  # decoded before a slice: an mp3's frames borrow bits from earlier ones
BLOCK = 2**20  # values read at once, of all channels: 4 MB
MAX_SECONDS = 4 * 3600  # of a clip that is decoded whole, as evaluation does with long audio
MAX_SAMPLES = MAX_SECONDS * 48_000  # of it, mixed: 2.8 GB, and about twice that while resampling
SILENT = 2.0**-14  # a range of samples below it is less than 16 bits can tell from a constant


def load(utterance: Utterance) -> Tensor:
    """Return an utterance's audio. Shape: (samples,), float32 at 16 kHz.

    Raises:
        AudioError: it cannot be read, is not as long as declared, or holds what is not a number.
    """
    planned = utterance.seconds
    # its bucket and the memory of its pass were planned for no more
    most = planned * (1 + TOLERANCE) + PADDING_SECONDS if planned else math.inf
    samples, rate = decode(utterance.audio, utterance.start, utterance.end, most)
    check_length(len(samples) / rate, planned)
    resampled = samples if rate == SAMPLE_RATE else resampler(rate)(samples)
    # what an mp3 encoder added must not reach beyond the planned frames
    return resampled[: frames_of(planned) * HOP_LENGTH] if planned else resampled


def load_audible(utterance: Utterance) -> Tensor:
    """Return what load() does, unless it is silent: nothing can be learnt from a text to silence.

    Raises:
        AudioError: as load(), or it is silent.
    """
    samples = load(utterance)
    check_audible(*samples.aminmax())
    return samples


def decode(
    audio: str, start: float = 0.0, end: float | None = None, most: float = math.inf
) -> tuple[Tensor, int]:
    """Decode a file or a row of a dataset, and mix it to mono.

    Args:
        audio: a path, or a row of a dataset.
        start: seconds into it.
        end: seconds into it; None: to its end.
        most: seconds to hold; what would be longer is refused before it takes any memory.

    Returns:
        The samples, shape (samples,), float32, and their rate in Hz.

    Raises:
        AudioError: as load().
    """
    with opened(audio) as file:
        rate: int = file.samplerate
        first = round(start * rate)
        last = file.frames if end is None else first + round((end - start) * rate)
        declared, most = (last - first) / rate, min(most, MAX_SAMPLES / rate)  # seconds
        if declared > most:
            raise AudioError("too much", f"{declared:.2f} s at {rate} Hz; {most:.2f} s are held")
        lead = max(0, min(first, round(LEAD_SECONDS * rate)))
        file.seek(first - lead)
        samples = torch.cat([torch.empty(0), *_mixed(file, last - first + lead)])[lead:]
    check_length(len(samples) / rate, declared)
    return samples, rate


def measured_seconds(audio: str) -> float:
    """Return the length of all that can be decoded, in seconds, holding one block of it at a time.

    Raises:
        AudioError: as load(), or it is silent.
    """
    samples, low, high = 0, math.inf, -math.inf
    with opened(audio) as file:
        for block in _mixed(file, file.frames):
            least, most = map(float, block.aminmax())
            samples, low, high = samples + len(block), min(low, least), max(high, most)
        seconds: float = samples / file.samplerate
        check_length(seconds, file.frames / file.samplerate)
    check_audible(low, high)
    return seconds


def declared_seconds(audio: str) -> float:
    """Return the length that a header announces, in seconds.

    Raises:
        AudioError: there is no readable header.
    """
    with opened(audio) as file:
        return float(file.frames / file.samplerate)


def check_length(decoded: float, declared: float) -> None:
    """Refuse audio that is shorter than it was said to be: half an mp3 still announces it all.

    Args:
        decoded: seconds.
        declared: seconds; 0 where nobody said.

    Raises:
        AudioError: more than the tolerance is missing.
    """
    if decoded < declared * (1 - TOLERANCE) - PADDING_SECONDS or decoded == 0:
        raise AudioError("truncated", f"{decoded:.2f} s decoded of {declared:.2f} s declared")


def check_audible(low: float | Tensor, high: float | Tensor) -> None:
    """Refuse digital silence, and a constant, which sounds no different.

    Raises:
        AudioError: the lowest and the highest sample hardly differ.
    """
    if high - low < SILENT:
        raise AudioError("silent", f"all samples lie between {low:.5f} and {high:.5f}")


def _mixed(file: soundfile.SoundFile, frames: int) -> Iterator[Tensor]:
    """Yield so many frames, or those there are, mixed to mono. Shape of a block: (samples,)."""
    size = BLOCK // file.channels
    while len(block := file.read(min(size, frames), dtype="float32", always_2d=True)):
        channels = torch.from_numpy(block)
        mono = channels.mean(dim=1) if channels.shape[1] > 1 else channels[:, 0]
        low, high = mono.aminmax()  # seven times as fast as isfinite(), and NaN is in both
        if not math.isfinite(float(high) - float(low)):
            raise AudioError("not a number", "the samples hold NaN or infinity")
        yield mono
        frames -= len(block)
