"""Log-mel spectrograms in torch, equal to transformers' WhisperFeatureExtractor to 1e-4."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torchaudio.functional import melscale_fbanks


def exact_div(a: int, b: int) -> int:
    """Return a / b, which must be an integer."""
    assert a % b == 0, (a, b)
    return a // b


SAMPLE_RATE = 16_000  # Hz
N_FFT = 400  # samples: 25 ms
HOP_LENGTH = 160  # samples: 10 ms
CHUNK_SECONDS = 30
N_SAMPLES = CHUNK_SECONDS * SAMPLE_RATE  # 480,000 per window
N_FRAMES = exact_div(N_SAMPLES, HOP_LENGTH)  # 3000 per window
FRAMES_PER_SECOND = exact_div(SAMPLE_RATE, HOP_LENGTH)  # 100
FRAMES_PER_POSITION = 2  # the encoder's second convolution has stride 2


def frames_of(seconds: float) -> int:
    """Return the number of frames that cover a duration in seconds, rounded up."""
    return -int(-seconds * FRAMES_PER_SECOND // 1)


def _filters(n_mels: int) -> Tensor:
    """Return Slaney's mel filters, shape (n_mels, 201), as precise as transformers'.

    torchaudio computes in torch's default dtype: in float32 narrow filters are off by 0.3 %.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        filters = melscale_fbanks(
            N_FFT // 2 + 1,
            0.0,
            SAMPLE_RATE / 2,
            n_mels,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
    finally:
        torch.set_default_dtype(default)
    return filters.T.float().contiguous()


class LogMel(nn.Module):
    """Computes Whisper's log-mel features of waveforms that are padded to whole frames."""

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int) -> None:
        """Build the window and the mel filters (n_mels: 80, or 128 for large-v3)."""
        super().__init__()
        self.register_buffer("filters", _filters(n_mels), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Compute features in float32, also under autocast.

        Shapes: (batch, frames * 160) → (batch, n_mels, frames).

        Pad the waveform, not the features: the value of silence depends on the loudest frame of the
        clip. Trailing silence cannot raise that maximum, so the frames before it equal the first
        frames of the same clip padded to 30 s.
        """
        # autocast would compute the product with the filters in half precision: where it underflows
        # on digital silence log10 is -inf, and quiet noise is off by up to 1.2
        with torch.autocast(audio.device.type, enabled=False):
            return self._features(audio.float())

    def _features(self, audio: Tensor) -> Tensor:
        frames = exact_div(audio.shape[-1], HOP_LENGTH)
        if frames < N_FRAMES:  # else, as in the original, stft() reflects the last half window
            audio = F.pad(audio, (0, N_FFT // 2))
        spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=self.window, return_complex=True)
        real, imaginary = torch.view_as_real(spectrum[..., :frames]).unbind(dim=-1)
        power = (
            real.square() + imaginary.square()
        )  # (batch, 201, frames); abs() would take a square root
        mel = torch.matmul(self.filters, power).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax(dim=(-2, -1), keepdim=True) - 8.0)
        return (mel + 4.0) / 4.0


def pad_features(features: Tensor) -> Tensor:
    """Pad log-mel features with silence to 30 s, nearly as if their waveforms had been padded.

    The value of silence is the clip's floor, 8 decades below its loudest value, or that of log10.
    Only the first two padded frames can differ, where a clip fills its last frame.
    Shapes: (batch, n_mels, frames) → (batch, n_mels, 3000).
    """
    floor = (features.amax(dim=(-2, -1), keepdim=True) - 8.0 / 4.0).clamp(min=(-10.0 + 4.0) / 4.0)
    silence = floor.expand(-1, features.shape[-2], N_FRAMES - features.shape[-1])
    return torch.cat([features, silence], dim=-1)
