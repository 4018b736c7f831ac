"""Augmentation of training clips: speed, volume, noise and SpecAugment; all off by default.

The random draws for a clip depend on (seed, epoch, utterance) only: they are the same for any
number of processes and workers, and after resuming.
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
SPEEDS = (0.5, 2.0)  # minimum and maximum
QUIET = 1e-4  # RMS below which speech or noise is too quiet to mix at an SNR


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
        """Check the ranges of values.

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
    """Augments waveforms, and draws SpecAugment masks."""

    def __init__(self, config: AugmentConfig, seed: int, n_mels: int = 80) -> None:
        """Find the noise files.

        Raises:
            InputError: there is no noise file, or one cannot be read.
        """
        self.config = config
        self.seed = seed
        self.n_mels = n_mels
        self._noise_files = [] if config.noise is None else find_noise_files(Path(config.noise))

    def __call__(self, samples: Tensor, speed: float, epoch: int, index: int) -> Tensor:
        """Return a clip's augmented waveform. Shapes: (samples,) → (samples / speed,).

        Args:
            samples: the waveform at 16 kHz.
            speed: factor, as drawn by the plan.
            epoch: seeds the draws.
            index: of the utterance; seeds the draws.

        Raises:
            AudioError: a noise file can no longer be read.
        """
        rng = random.Random(f"{self.seed} {epoch} {index} augment")
        samples = change_speed(samples, speed)
        if self._noise_files and rng.random() < self.config.noise_share:
            path = rng.choice(self._noise_files)
            noise = sample_noise(path, len(samples), rng)
            samples = add_noise(samples, noise, rng.uniform(*self.config.noise_snr))
        if self.config.volume:
            decibels = rng.uniform(-self.config.volume, self.config.volume)
            samples = change_volume(samples, decibels)
        return samples

    def masks(self, row: int, frames: int, epoch: int, index: int) -> list[Mask]:
        """Draw the SpecAugment masks of a row.

        Args:
            row: its index in the batch.
            frames: its length without padding.
            epoch: seeds the draws.
            index: of its first utterance; seeds the draws.
        """
        config = self.config
        rng = random.Random(f"{self.seed} {epoch} {index} masks")
        widest = min(config.time_width, frames // 10)
        spans = [_random_span(frames, widest, rng) for _ in range(config.time_masks)]
        return [Mask(row, slice(None), span) for span in spans] + [
            Mask(row, _random_span(self.n_mels, config.mel_width, rng), slice(0, frames))
            for _ in range(config.mel_masks)
        ]


NO_AUGMENTATION = Augmentation(AugmentConfig(), seed=0)


def change_speed(samples: Tensor, speed: float) -> Tensor:
    """Change speed and pitch by resampling (Ko et al. 2015, Kaldi's speed perturbation)."""
    if speed == 1.0:
        return samples
    return resampler(round(SAMPLE_RATE * speed))(samples)


def change_volume(samples: Tensor, decibels: float) -> Tensor:
    """Change the volume by some decibels, and clip to full scale."""
    return (samples * 10 ** (decibels / 20)).clamp(-1.0, 1.0)


def add_noise(samples: Tensor, noise: Tensor, snr: float) -> Tensor:
    """Add noise at a signal-to-noise ratio in decibels. Shapes: both (samples,)."""
    speech_rms, noise_rms = (float(signal.square().mean().sqrt()) for signal in (samples, noise))
    if min(speech_rms, noise_rms) < QUIET:
        return samples
    return samples + noise * (speech_rms / noise_rms * 10 ** (-snr / 20))


def mask_features(features: Tensor, masks: Sequence[Mask]) -> None:
    """Set masked regions to the row's mean, in place (SpecAugment, arXiv 1904.08779).

    Args:
        features: (batch, n_mels, frames).
        masks: the regions.
    """
    means = features.mean(dim=(-2, -1))
    for row, channels, frames in masks:
        features[row, channels, frames] = means[row]


def find_noise_files(folder: Path) -> list[str]:
    """Return the audio files in a folder and below, sorted by path.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    time_masks = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not time_masks:
        raise InputError(f"data.augment.noise: {folder} has no {', '.join(sorted(SUFFIXES))}")
    for path in time_masks:
        try:
            _seconds(path)
        except AudioError as error:
            raise InputError(f"data.augment.noise: {path}: {error.detail}") from error
    return time_masks


def sample_noise(path: str, samples: int, rng: random.Random) -> Tensor:
    """Return a random excerpt of a recording, repeated if it is too short. Shape: (samples,).

    Args:
        path: the recording.
        samples: length of the excerpt at 16 kHz.
        rng: draws where it begins.

    Raises:
        AudioError: the recording cannot be read.
    """
    length, wanted = _seconds(path), samples / SAMPLE_RATE
    start = rng.uniform(0, max(0.0, length - wanted))
    noise, rate = decode(path, start, min(length, start + wanted))
    noise = noise if rate == SAMPLE_RATE else resampler(rate)(noise)
    return noise.repeat(-(-samples // max(1, len(noise))))[:samples]


@lru_cache(maxsize=100_000)
def _seconds(path: str) -> float:
    return declared_seconds(path)


def _random_span(whole: int, widest: int, rng: random.Random) -> slice:
    width = rng.randint(0, widest)
    start = rng.randint(0, whole - width)
    return slice(start, start + width)
