"""Augmentation of training clips: none by default, and the same at each resume.

What is done to a clip is drawn from (seed, epoch, utterance), so neither the number of processes
nor of workers matters, and a run that goes on hears what it would have heard.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from data.audio.decode import AudioError, declared_seconds, decode
from data.audio.resample import resampler
from data.batch import Mask
from data.errors import InputError
from data.log_mel import SAMPLE_RATE

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
SPEEDS = (0.5, 2.0)  # the slowest and the fastest
QUIET = 1e-4  # RMS below which a clip, or a piece of noise, has no level to speak of


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Augmentation of training clips; all off by default."""

    # Speed factors, such as 0.9 1 1.1, of which one is drawn for each clip. Pitch changes too.
    speed: tuple[float, ...] = ()
    volume: float = 0.0  # Largest change of a clip's volume, in decibels up or down.
    # Folder with recordings of noise, which are mixed into noise_share of the clips.
    noise: str | None = None
    noise_share: float = 0.5  # Share of the clips that noise is mixed into.
    # Lowest and highest signal-to-noise ratio, in decibels.
    noise_snr: tuple[float, float] = (5.0, 25.0)
    time_masks: int = 0  # SpecAugment's time masks: stretches of a clip that are set to its mean.
    # Frames of 10 ms in a time mask at most. It is never more than a tenth of the clip.
    time_width: int = 50
    # SpecAugment's frequency masks: bands of channels that are set to the clip's mean.
    mel_masks: int = 0
    mel_width: int = 20  # Mel channels in a frequency mask at most.

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        for speed in self.speed:
            if not SPEEDS[0] <= speed <= SPEEDS[1]:
                raise InputError(f"data.augment.speed must lie within {SPEEDS}, got {speed}")
        if not 0 <= self.noise_share <= 1:
            raise InputError(
                f"data.augment.noise_share must lie between 0 and 1, got {self.noise_share}"
            )
        if self.mel_width > 80:
            raise InputError(f"data.augment.mel_width must be 80 at most, got {self.mel_width}")
        if not self.noise_snr[0] <= self.noise_snr[1]:
            raise InputError(
                "data.augment.noise_snr must be the least and the most, got "
                f"{self.noise_snr[0]:g} and {self.noise_snr[1]:g}"
            )
        for key in ("volume", "time_masks", "time_width", "mel_masks", "mel_width"):
            if not getattr(self, key) >= 0:
                raise InputError(f"data.augment.{key} must be 0 or more, got {getattr(self, key)}")


class Augmentation:
    """What a config does to a clip's samples, and which of its features it hides."""

    def __init__(self, config: AugmentConfig, seed: int, n_mels: int = 80) -> None:
        """Look for noise.

        Raises:
            InputError: a recording of noise cannot be read, or there is none.
        """
        self.config = config
        self.seed = seed
        self.n_mels = n_mels
        self._noises = [] if config.noise is None else find_noises(Path(config.noise))

    def __call__(self, samples: Tensor, speed: float, epoch: int, index: int) -> Tensor:
        """Return a clip as an epoch hears it. Shapes: (samples,) → (samples / speed,).

        Raises:
            AudioError: noise cannot be read any more.
        """
        draw = random.Random(f"{self.seed} {epoch} {index} augment")
        samples = change_speed(samples, speed)
        if self._noises and draw.random() < self.config.noise_share:
            path = draw.choice(self._noises)
            noise = draw_noise(path, len(samples), draw)
            samples = add_noise(samples, noise, draw.uniform(*self.config.noise_snr))
        if self.config.volume:
            decibels = draw.uniform(-self.config.volume, self.config.volume)
            samples = change_volume(samples, decibels)
        return samples

    def masks(self, row: int, frames: int, epoch: int, index: int) -> list[Mask]:
        """Return what is hidden of a row's features.

        Args:
            row: its place in the batch.
            frames: that it has, without padding.
            epoch: that hears it.
            index: of its first utterance.
        """
        config = self.config
        draw = random.Random(f"{self.seed} {epoch} {index} masks")
        widest = min(config.time_width, frames // 10)
        found = [
            Mask(row, slice(None), _stretch(frames, widest, draw)) for _ in range(config.time_masks)
        ]
        return found + [
            Mask(row, _stretch(self.n_mels, config.mel_width, draw), slice(0, frames))
            for _ in range(config.mel_masks)
        ]


UNCHANGED = Augmentation(AugmentConfig(), seed=0)


def change_speed(samples: Tensor, speed: float) -> Tensor:
    """Play faster or slower, as a tape does (Ko et al. 2015, Kaldi's speed perturbation)."""
    if speed == 1.0:
        return samples
    return resampler(round(SAMPLE_RATE * speed))(samples)


def change_volume(samples: Tensor, decibels: float) -> Tensor:
    """Make it louder or softer, and clip what is beyond full scale, as a microphone does."""
    return (samples * 10 ** (decibels / 20)).clamp(-1.0, 1.0)


def add_noise(samples: Tensor, noise: Tensor, snr: float) -> Tensor:
    """Add noise that speech is some decibels above. Shapes: both (samples,)."""
    speech_level, noise_level = (float(each.square().mean().sqrt()) for each in (samples, noise))
    if min(speech_level, noise_level) < QUIET:
        return samples
    return samples + noise * (speech_level / noise_level * 10 ** (-snr / 20))


def mask_features(features: Tensor, masks: Sequence[Mask]) -> None:
    """Set what is masked to the row's mean, in place (SpecAugment, arXiv 1904.08779).

    Args:
        features: (batch, n_mels, frames).
        masks: which parts.
    """
    means = features.mean(dim=(-2, -1))
    for row, channels, frames in masks:
        features[row, channels, frames] = means[row]


def find_noises(folder: Path) -> list[str]:
    """Return the recordings in a folder and below, in the order of their names.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"data.augment.noise: {folder} holds no {', '.join(sorted(SUFFIXES))}")
    for path in found:
        try:
            _seconds(path)
        except AudioError as error:
            raise InputError(f"data.augment.noise: {path}: {error.detail}") from error
    return found


def draw_noise(path: str, samples: int, draw: random.Random) -> Tensor:
    """Return a stretch of a recording, which begins anew where it is shorter. Shape: (samples,).

    Raises:
        AudioError: it cannot be read.
    """
    length, wanted = _seconds(path), samples / SAMPLE_RATE
    start = draw.uniform(0, max(0.0, length - wanted))
    noise, rate = decode(path, start, min(length, start + wanted))
    noise = noise if rate == SAMPLE_RATE else resampler(rate)(noise)
    return noise.repeat(-(-samples // max(1, len(noise))))[:samples]


@lru_cache(maxsize=100_000)
def _seconds(path: str) -> float:
    return declared_seconds(path)


def _stretch(whole: int, widest: int, draw: random.Random) -> slice:
    width = draw.randint(0, widest)
    start = draw.randint(0, whole - width)
    return slice(start, start + width)
