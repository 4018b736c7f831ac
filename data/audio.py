"""Decode, mix to mono, resample: any file to 16 kHz float32."""

import io
import json
import os
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from data.features import HOP_LENGTH, SAMPLE_RATE, frames_of
from data.utterance import Utterance

TOLERANCE = 0.02  # of the declared length; mp3 encoders pad by up to 0.1 s
PADDING_SECONDS = 0.12  # what an mp3 encoder may add or hide
LEAD_SECONDS = 0.5  # decoded before a slice: an mp3's frames borrow bits from earlier ones
# soundfile raises a TypeError for a file without a header, such as .raw
BROKEN = (soundfile.SoundFileError, OSError, ValueError, TypeError)


class AudioError(Exception):
    """Audio that cannot be used. `reason` is one of a few words, `detail` this case's facts."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both parts apart, so that reasons can be counted."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def load(utterance: Utterance) -> Tensor:
    """Return an utterance's audio. Shape: (samples,), float32 at 16 kHz.

    Raises:
        AudioError: it cannot be read, is shorter than declared, or holds what is not a number.
    """
    waveform, rate = decode(utterance.audio, utterance.start, utterance.end)
    decoded, planned = waveform.shape[1] / rate, utterance.seconds
    check_length(decoded, planned)
    if planned and decoded > planned * (1 + TOLERANCE) + PADDING_SECONDS:
        # its bucket and the memory of its pass were planned for less
        raise AudioError("too much", f"{decoded:.2f} s decoded of {planned:.2f} s declared")
    mono = waveform.mean(dim=0)  # (samples,)
    mono = mono if rate == SAMPLE_RATE else _resampler(rate)(mono)
    # what an mp3 encoder added must not reach beyond the planned frames
    return mono[: frames_of(planned) * HOP_LENGTH] if planned else mono


def decode(audio: str, start: float = 0.0, end: float | None = None) -> tuple[Tensor, int]:
    """Decode a file or a row of a dataset, from `start` to `end` seconds.

    Returns:
        The waveform, shape (channels, samples), float32, and its rate in Hz.

    Raises:
        AudioError: as load().
    """
    try:
        with quiet_stderr, soundfile.SoundFile(open_source(audio)) as file:
            rate: int = file.samplerate
            first = round(start * rate)
            lead = max(0, min(first, round(LEAD_SECONDS * rate)))
            file.seek(first - lead)
            frames = -1 if end is None else round((end - start) * rate) + lead
            samples = file.read(frames, dtype="float32", always_2d=True)[lead:]
            declared = file.frames / rate if end is None else end
    except BROKEN as error:
        raise AudioError("unreadable", str(error)) from error
    check_length(len(samples) / rate, declared - start)
    if not np.isfinite(samples).all():
        raise AudioError("not a number", "the samples hold NaN or infinity")
    return torch.from_numpy(samples.T), rate


def declared_seconds(audio: str) -> float:
    """Return the length that a header announces, in seconds.

    Raises:
        AudioError: there is no readable header.
    """
    try:
        with quiet_stderr, soundfile.SoundFile(open_source(audio)) as file:
            return float(file.frames / file.samplerate)
    except BROKEN as error:
        raise AudioError("unreadable", str(error)) from error


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


def open_source(audio: str) -> str | io.BytesIO:
    """Return what soundfile can open: the path, or a dataset row's bytes."""
    if not audio.startswith("hub:"):
        return audio
    from data.corpora.hub import fetch  # here: datasets takes a second to import

    return io.BytesIO(fetch(json.loads(audio.removeprefix("hub:"))))


class _Quiet:
    """Keeps libmpg123's warnings off file descriptor 2: they would tear a progress display."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved = -1

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._saved = os.dup(2)
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, 2)
                os.close(sink)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)


quiet_stderr = _Quiet()  # one for all threads: each would restore what another had silenced


@lru_cache(maxsize=32)
def _resampler(rate: int) -> Any:
    """Build the kernel for a source rate once: 44.1 kHz has 76,000 coefficients."""
    return Resample(rate, SAMPLE_RATE)
