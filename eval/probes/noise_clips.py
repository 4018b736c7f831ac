"""Transcribe synthetic silence and noise, in which any text is a hallucination.

The clips of 1 s to 30 s are generated from a fixed seed: digital silence, coloured noise, hum,
clicks, and noise with the envelope of speech.
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

LOWEST_HERTZ = 20.0  # below it the spectra of pink and brown noise are flat
SYLLABLES = 4.0  # a second, of the speech-like envelope


def silence(samples: int) -> Tensor:
    """Return digital silence."""
    return torch.zeros(samples)


def coloured_noise(samples: int, *, slope: float, loudness: float) -> Tensor:
    """Return noise whose power falls with frequency: slope 0 is white, 1 pink, 2 brown.

    Args:
        samples: length.
        slope: power is proportional to frequency ** -slope.
        loudness: standard deviation; full scale is 1.
    """
    generator = torch.Generator().manual_seed(samples)
    white = torch.randn(samples, generator=generator, dtype=torch.float64)
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, dtype=torch.float64)
    weights = hertz.clamp(min=LOWEST_HERTZ) ** (-slope / 2)
    noise = torch.fft.irfft(torch.fft.rfft(white) * weights, samples)
    return loudness * noise / noise.std()


def hum(samples: int, *, hertz: float, loudness: float) -> Tensor:
    """Return a hum with odd harmonics, or at a high frequency a tone."""
    time = torch.arange(samples, dtype=torch.float64) / SAMPLE_RATE
    waves = [torch.sin(2 * math.pi * hertz * n * time) / n for n in (1, 3, 5)]
    return loudness * torch.stack(waves).sum(dim=0)


def clicks(samples: int, *, every: float, loudness: float) -> Tensor:
    """Return clicks of one sample, `every` seconds apart."""
    sound = torch.zeros(samples, dtype=torch.float64)
    sound[:: round(every * SAMPLE_RATE)] = loudness
    return sound


def babble(samples: int, *, loudness: float) -> Tensor:
    """Return pink noise with the envelope of syllables, and pauses as between sentences."""
    time = torch.arange(samples, dtype=torch.float64) / SAMPLE_RATE
    swell = torch.sin(math.pi * SYLLABLES * time) ** 2
    active = (time % 3.0) < 2.2  # seconds
    return coloured_noise(samples, slope=1, loudness=1.0) * loudness * swell * active


# name → seconds, function of the number of samples
SOUNDS: dict[str, tuple[float, Callable[[int], Tensor]]] = {
    "silence-1s": (1.0, silence),
    "silence-10s": (10.0, silence),
    "silence-30s": (30.0, silence),
    "white-quiet-5s": (5.0, partial(coloured_noise, slope=0, loudness=0.001)),
    "white-2s": (2.0, partial(coloured_noise, slope=0, loudness=0.1)),
    "pink-4s": (4.0, partial(coloured_noise, slope=1, loudness=0.03)),
    "pink-30s": (30.0, partial(coloured_noise, slope=1, loudness=0.1)),
    "brown-15s": (15.0, partial(coloured_noise, slope=2, loudness=0.05)),
    "hum-6s": (6.0, partial(hum, hertz=50.0, loudness=0.05)),
    "tone-3s": (3.0, partial(hum, hertz=1000.0, loudness=0.1)),
    "clicks-8s": (8.0, partial(clicks, every=0.7, loudness=0.5)),
    "babble-12s": (12.0, partial(babble, loudness=0.1)),
}


def generate_noise(utterance: Utterance) -> Tensor:
    """Return the samples of a noise clip, rounded to 16 bits. Shape: (samples,)."""
    seconds, generate = SOUNDS[utterance.id]
    sound = generate(round(seconds * SAMPLE_RATE)).clamp(-1, 1 - 2**-15)
    return ((sound * 2**15).round() / 2**15).float()


def noise_utterances(language: str | None) -> list[Utterance]:
    """Return an utterance with an empty text for each noise clip.

    Args:
        language: for which the model decodes.
    """
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
    """Return the hypotheses of the noise clips; empty with eval.non_speech=false.

    Args:
        evaluator: that of the evaluation.
        hypotheses: of the evaluation; the noise clips are decoded in their most frequent language.
        true_length: as in Evaluator.evaluate().
    """
    if not (evaluator.config.non_speech and hypotheses):
        return []
    ((language, _),) = Counter(h.utterance.language for h in hypotheses).most_common(1)
    clips = noise_utterances(language)
    if isinstance(evaluator, Evaluator):  # starting workers would take longer than the work
        evaluator = replace(evaluator, data=replace(evaluator.data, workers=0))
    _, noise = evaluator.evaluate(
        clips, "silence and noise", true_length=true_length, load_audio=generate_noise
    )
    return noise
