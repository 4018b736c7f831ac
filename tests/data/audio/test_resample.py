"""The resampler's output equals torchaudio's."""

import pytest
import torch
from torchaudio.transforms import Resample

from data.audio.resample import resampler

USUAL = (8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)
HIGH = (176_400, 192_000, 352_800, 384_000, 705_600, 768_000)


@pytest.mark.parametrize("rate", [*USUAL, 192_000, 44_101, 7_999])
def test_it_equals_torchaudios_at_any_length(rate: int) -> None:
    ours = resampler(rate)
    theirs = Resample(ours.old, ours.new)
    for samples in (1, 2, 7, 100, rate // 50, rate // 50 + 1, rate, rate + 13):
        audio = torch.randn(samples, generator=torch.manual_seed(samples))
        torch.testing.assert_close(ours(audio), theirs(audio), atol=3e-6, rtol=0)


def test_nothing_becomes_nothing() -> None:
    assert resampler(48_000)(torch.empty(0)).shape == (0,)


def test_usual_rates_are_exact() -> None:
    for rate in (*USUAL, *HIGH):
        assert resampler(rate).old * 16_000 == resampler(rate).new * rate


def test_no_product_copies_its_windows() -> None:
    # BLAS takes a matrix whose rows are at least as far apart as they are long
    for rate in (*USUAL, *HIGH):
        ours = resampler(rate)
        assert all(len(weights) <= ours.stride for _, weights in ours.groups)


def test_a_kernel_is_built_once_for_a_rate() -> None:
    assert resampler(44_100) is resampler(44_100)
    assert resampler(44_100) is not resampler(48_000)
