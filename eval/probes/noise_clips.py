"""Silence and noise in which nobody speaks: what a model hears in them, it made up.

Made when they are heard, from a fixed seed: digital silence, the noises of rooms and wires, and a
noise that swells like speech, from 1 s to 30 s.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from data.log_mel import SAMPLE_RATE
from data.utterance import Utterance
from eval.evaluate import Evaluator
from eval.faster_whisper_model import FasterWhisperModel
from eval.metrics.hypothesis import Hypothesis

LOWEST_HERTZ = 20.0  # the slopes of pink and brown noise begin there
SYLLABLES = 4.0  # a second, in which speech swells


def silence(samples: int) -> Tensor:
    """Return nothing."""
    return torch.zeros(samples)


def coloured(samples: int, *, slope: float, loudness: float) -> Tensor:
    """Return noise whose power falls with frequency: slope 0 is white, 1 pink, 2 brown.

    Args:
        samples: its length.
        slope: power falls as frequency to this.
        loudness: its standard deviation; full scale is 1.
    """
    generator = torch.Generator().manual_seed(samples)
    white = torch.randn(samples, generator=generator, dtype=torch.float64)
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, dtype=torch.float64)
    weights = hertz.clamp(min=LOWEST_HERTZ) ** (-slope / 2)
    noise = torch.fft.irfft(torch.fft.rfft(white) * weights, samples)
    return loudness * noise / noise.std()


def hum(samples: int, *, hertz: float, loudness: float) -> Tensor:
    """Return a mains hum with its odd harmonics; a high one is a tone."""
    time = torch.arange(samples, dtype=torch.float64) / SAMPLE_RATE
    waves = [torch.sin(2 * math.pi * hertz * n * time) / n for n in (1, 3, 5)]
    return loudness * torch.stack(waves).sum(dim=0)


def clicks(samples: int, *, every: float, loudness: float) -> Tensor:
    """Return short clicks, so many seconds apart."""
    sound = torch.zeros(samples, dtype=torch.float64)
    sound[:: round(every * SAMPLE_RATE)] = loudness
    return sound


def babble(samples: int, *, loudness: float) -> Tensor:
    """Return pink noise that swells as often as syllables do, and pauses as sentences do."""
    time = torch.arange(samples, dtype=torch.float64) / SAMPLE_RATE
    swell = torch.sin(math.pi * SYLLABLES * time) ** 2
    speaks = (time % 3.0) < 2.2  # seconds
    return coloured(samples, slope=1, loudness=1.0) * loudness * swell * speaks


# name → seconds, sound
SOUNDS: dict[str, tuple[float, Callable[[int], Tensor]]] = {
    "silence-1s": (1.0, silence),
    "silence-10s": (10.0, silence),
    "silence-30s": (30.0, silence),
    "white-quiet-5s": (5.0, partial(coloured, slope=0, loudness=0.001)),
    "white-2s": (2.0, partial(coloured, slope=0, loudness=0.1)),
    "pink-4s": (4.0, partial(coloured, slope=1, loudness=0.03)),
    "pink-30s": (30.0, partial(coloured, slope=1, loudness=0.1)),
    "brown-15s": (15.0, partial(coloured, slope=2, loudness=0.05)),
    "hum-6s": (6.0, partial(hum, hertz=50.0, loudness=0.05)),
    "tone-3s": (3.0, partial(hum, hertz=1000.0, loudness=0.1)),
    "clicks-8s": (8.0, partial(clicks, every=0.7, loudness=0.5)),
    "babble-12s": (12.0, partial(babble, loudness=0.1)),
}


def sound_of(utterance: Utterance) -> Tensor:
    """Return a sound's samples, rounded to 16 bits as files are. Shape: (samples,)."""
    seconds, make = SOUNDS[utterance.id]
    sound = make(round(seconds * SAMPLE_RATE)).clamp(-1, 1 - 2**-15)
    return ((sound * 2**15).round() / 2**15).float()


def noise_set(language: str | None) -> list[Utterance]:
    """Return the set: utterances in which nothing is said, in a language that the model is told."""
    return [
        Utterance(id=name, audio=f"noise:{name}", text="", seconds=seconds, language=language)
        for name, (seconds, _) in SOUNDS.items()
    ]


def transcribe_noise(
    evaluator: Evaluator | FasterWhisperModel,
    hypotheses: Sequence[Hypothesis],
    *,
    true_length: bool,
) -> list[Hypothesis]:
    """Return what the model says to the set, decoded as it decodes; none with eval.non_speech off.

    Args:
        evaluator: made it.
        hypotheses: what it heard, most of them in the language that the model is told.
        true_length: as in Evaluator.evaluate().
    """
    if not (evaluator.config.non_speech and hypotheses):
        return []
    ((language, _),) = Counter(h.utterance.language for h in hypotheses).most_common(1)
    sounds = noise_set(language)
    if isinstance(evaluator, Evaluator):  # workers would take longer to start than this takes
        evaluator = replace(evaluator, data=replace(evaluator.data, workers=0))
    return evaluator.evaluate(sounds, "silence and noise", true_length=true_length, hear=sound_of)[
        1
    ]
