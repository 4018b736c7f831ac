"""Log-mel features do not depend on the device, nor on the precision that training computes in."""

import pytest
import torch
from gpu.rows import record
from torch import Tensor

from data.log_mel import LogMel

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SAMPLES = 5 * 16_000
ALLOWED = 1e-3  # of features from -1 to 1; transformers' own differ by 1e-4


def sounds() -> dict[str, Tensor]:
    """Return waveforms, each (1, samples)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, SAMPLES, generator=generator)
    syllables = torch.sin(torch.arange(SAMPLES) / 16_000 * 2 * torch.pi * 2).square()
    return {
        "speech-like noise": 0.1 * syllables * noise,
        "quiet noise": 1e-4 * noise,
        "digital silence": torch.zeros(1, SAMPLES),
    }


@pytest.mark.parametrize("sound", list(sounds()))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_those_of_a_cpu_in_float32(
    n_mels: int, precision: str, sound: str, device: torch.device
) -> None:
    audio = sounds()[sound]
    expected = LogMel(n_mels)(audio)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
        found = LogMel(n_mels).to(device)(audio.to(device))
    off = float((found.float().cpu() - expected).abs().max())
    record(f"{sound}, {precision}, {n_mels} mels", largest_difference=off)
    assert off < ALLOWED, f"expected features within {ALLOWED} of a CPU's, found {off} off"
