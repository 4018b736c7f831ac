"""Encode a clip's audio as a data URI, small enough to embed in an HTML page."""

import base64
import io
from typing import Any

import soundfile

from data.audio.decode import load_audio
from data.audio.open_audio import quiet_stderr
from data.log_mel import N_SAMPLES, SAMPLE_RATE
from data.utterance import Utterance

# mp3 plays in every browser, at about 3 KB per second
MP3: Any = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.7}


def data_uri(clip: Utterance) -> str:
    """Return a clip as a data URI: mono, 16 kHz, its first 30 s.

    Raises:
        AudioError: it cannot be read, or does not have its declared duration.
    """
    samples = load_audio(clip)[:N_SAMPLES].numpy()
    file = io.BytesIO()
    with quiet_stderr:
        soundfile.write(file, samples, SAMPLE_RATE, **MP3)
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
