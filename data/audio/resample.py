"""Resample to 16 kHz: torchaudio's kernel, applied as matrix products over strided views."""

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torchaudio.transforms import Resample

from data.log_mel import SAMPLE_RATE

FINEST = 1000  # largest term of a ratio of rates, for at most 1,000,000 kernel coefficients
GROUP = 32  # outputs per matrix product: wide enough to be fast, and with few zeros
ZERO = 1e-12  # relative to the largest coefficient: torchaudio's window does not end in zeros


class Resampler:
    """Resamples to 16 kHz with torchaudio's kernel, at twice its speed or more.

    torchaudio convolves with a kernel of `new` rows at a stride of `old` samples. At 44.1 kHz it
    has 160 rows of 475 coefficients, 33 of which are not zero, and a convolution of one channel is
    slow. Here, rows whose nonzero coefficients are close to each other form a group, and each group
    is one matrix product with all windows of the audio, which are a strided view of it.
    """

    def __init__(self, rate: int) -> None:
        """Build the kernel of a source rate in Hz.

        An exact kernel for 44,101 Hz would have 700,000,000 coefficients. So unusual ratios are
        rounded, by less than 0.06 %, which is a hundredth of a semitone. All usual rates, from 1 to
        768 kHz, are exact.
        """
        ratio = Fraction(SAMPLE_RATE, rate)
        near = min(ratio, 1 / ratio).limit_denominator(FINEST)
        near = near if ratio < 1 else 1 / near
        self.old, self.new = near.denominator, near.numerator
        kernel, self.width = torch.ones(1, 1), 0  # identity; width: samples before the current one
        if self.old != self.new:
            theirs = Resample(self.old, self.new)
            kernel, self.width = theirs.kernel[:, 0], theirs.width  # (new, taps)
        # repeat the kernel until a window is no longer than a stride: BLAS would copy a matrix
        # whose rows overlap
        turns = max(1, -(-2 * GROUP // self.new), -(-4 * self.width // self.old))
        self.stride, self.outputs = self.old * turns, self.new * turns
        rows = torch.zeros(self.outputs, self.stride + kernel.shape[1] - self.old)
        for turn in range(turns):
            start = turn * self.old
            rows[turn * self.new : (turn + 1) * self.new, start : start + kernel.shape[1]] = kernel
        self.groups = [_trim(group) for group in rows.split(GROUP)]
        self.reach = rows.shape[1]

    def __call__(self, audio: Tensor) -> Tensor:
        """Resample. Shapes: (samples,) → (ceil(samples * new / old),)."""
        samples = -(-len(audio) * self.new // self.old)
        windows = -(-samples // self.outputs)
        behind = (windows - 1) * self.stride + self.reach - self.width - len(audio)
        audio = F.pad(audio, (self.width, max(0, behind)))
        parts = [
            audio.as_strided((windows, len(weights)), (self.stride, 1), start) @ weights
            for start, weights in self.groups
        ]
        return torch.cat(parts, dim=1).flatten()[:samples]


def _trim(rows: Tensor) -> tuple[int, Tensor]:
    """Return the first used tap of a group, and its nonzero coefficients. Shape: (taps, rows)."""
    used = (rows.abs() > ZERO * rows.abs().max()).any(dim=0).nonzero()
    start, end = int(used[0]), int(used[-1]) + 1
    return start, rows[:, start:end].T.contiguous()


@lru_cache(maxsize=32)
def resampler(rate: int) -> Resampler:
    """Return the cached Resampler of a source rate in Hz."""
    return Resampler(rate)
