"""FLOPs of Whisper, from the shapes in its config, and the peak FLOP/s of devices.

Only matrix products count, 2 FLOPs per multiply-add, as in the appendix of PaLM (arXiv 2204.02311)
that defines MFU. A layer of width d takes 24 d² per encoder position, 28 d² per decoder position
(with cross-attention), 4 d² per encoder position for the keys and values of cross-attention, and
4 d per pair of positions that attend. The two convolutions and the LM head are added.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from data.batch import Shape
from data.log_mel import FRAMES_PER_POSITION, FRAMES_PER_SECOND, exact_div
from eval.whisper import Whisper
from trainer.model import ModelConfig

POSITIONS_PER_SECOND = exact_div(FRAMES_PER_SECOND, FRAMES_PER_POSITION)  # 50, of the encoder

# dense fp16/bf16 peaks in FLOP/s from data sheets; the first name that matches counts
PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WhisperFlops:
    """The shapes that FLOPs depend on."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    n_mels: int
    vocabulary: int
    frozen_encoder: bool = False
    frozen_weights: bool = False  # LoRA: the FLOPs of the adapters are negligible
    gradient_checkpointing: bool = False  # the forward pass is computed twice

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        frozen_encoder: bool = False,
        frozen_weights: bool = False,
        gradient_checkpointing: bool = False,
    ) -> "WhisperFlops":
        """Read the shapes from a transformers WhisperConfig."""
        return cls(
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            n_mels=config.num_mel_bins,
            vocabulary=config.vocab_size,
            frozen_encoder=frozen_encoder,
            frozen_weights=frozen_weights,
            gradient_checkpointing=gradient_checkpointing,
        )

    def encoder(self, positions: float) -> float:
        """Return the FLOPs of encoding a clip of a number of encoder positions."""
        d, s = self.d_model, positions
        layer = 24 * d * d * s + 4 * d * s * s
        convolutions = 12 * self.n_mels * d * s + 6 * d * d * s
        return self.encoder_layers * layer + convolutions

    def decoder(self, positions: float, tokens: int) -> float:
        """Return the FLOPs of decoding a number of tokens of a clip with teacher forcing."""
        d, s, u = self.d_model, positions, tokens
        layer = 28 * d * d * u + 4 * d * d * s + 4 * d * u * s + 4 * d * u * u
        return self.decoder_layers * layer + 2 * d * self.vocabulary * u

    def train(self, clips: Iterable[tuple[float, int]]) -> float:
        """Return the model FLOPs of training, without padding and recomputation.

        The backward pass takes twice the FLOPs of the forward pass, or once with frozen weights. A
        frozen encoder has no backward pass. Clips are given as (seconds, target tokens).
        """
        return self._forward_backward(clips, recompute=False)

    def hardware(self, rows: Iterable[tuple[float, int]]) -> float:
        """Return the hardware FLOPs of training, with what gradient checkpointing recomputes.

        Args:
            rows: padded seconds and padded tokens of each.
        """
        return self._forward_backward(rows, recompute=self.gradient_checkpointing)

    def _forward_backward(self, clips: Iterable[tuple[float, int]], *, recompute: bool) -> float:
        total = 0.0
        for seconds, tokens in clips:
            s = seconds * POSITIONS_PER_SECOND
            encoder, decoder = self.encoder(s), self.decoder(s, tokens)
            differentiated = decoder if self.frozen_encoder else decoder + encoder
            backward = 2 * differentiated
            if self.frozen_weights:
                backward = differentiated + self._attention(s, tokens)
            total += encoder + decoder + backward + (differentiated if recompute else 0.0)
        return total

    def _attention(self, positions: float, tokens: int) -> float:
        """Return the forward FLOPs of attention scores and values, which have no weights."""
        d, s, u = self.d_model, positions, tokens
        encoder = 0.0 if self.frozen_encoder else self.encoder_layers * 4 * d * s * s
        return encoder + self.decoder_layers * (4 * d * u * s + 4 * d * u * u)

    def activation_bytes(self, shape: Shape) -> float:
        """Return the approximate memory of a forward pass's activations, to rank passes.

        In half precision and without dropout a layer keeps 34 d bytes per position (section 4.1
        of arXiv 2205.05198; fused attention keeps no scores). The decoder's cross-attention adds
        13 d per token, and 4 d per encoder position for keys and values. With gradient
        checkpointing only the input of a layer is kept. The loss holds three times the logits in
        float32: the log-softmax and two gradients. Autocast's copies, counted for tiny and small,
        multiply audio and tokens alike by 1.3, so they are left out. Weights are not included.
        """
        d, positions = self.d_model, shape.frames / FRAMES_PER_POSITION
        checkpointing = self.gradient_checkpointing
        layer, cross, keys = (4 * d, 0, 0) if checkpointing else (34 * d, 13 * d, 4 * d)
        encoder = 0 if self.frozen_encoder else self.encoder_layers * layer
        encoder += self.decoder_layers * keys
        decoder = self.decoder_layers * (layer + cross) + 3 * 4 * self.vocabulary
        return shape.rows * (positions * encoder + shape.tokens * decoder)

    def batch(self, shape: Shape) -> float:
        """Return the hardware FLOPs of training on a padded batch."""
        row = (shape.frames / FRAMES_PER_SECOND, shape.tokens)
        return shape.rows * self.hardware([row])


def whisper_flops(whisper: Whisper, config: ModelConfig) -> WhisperFlops:
    """Return the FLOPs of training a model with these settings."""
    return WhisperFlops.from_config(
        whisper.model.config,
        frozen_encoder=config.frozen_encoder,
        frozen_weights=config.lora_rank is not None,
        gradient_checkpointing=config.gradient_checkpointing,
    )


@dataclass(slots=True)
class Peak:
    """The peak FLOP/s of a device; a measured peak is measured again when it is exceeded."""

    device: torch.device
    per_second: float  # FLOP/s
    source: str  # data sheet or measured

    def utilization(self, model: float, hardware: float) -> tuple[float, float] | None:
        """Return MFU and HFU, the shares of the peak; None if the hardware FLOP/s exceed the peak.

        A measured peak is too low if the device was busy with something else.

        Args:
            model: FLOP/s that the clips need at their own length.
            hardware: FLOP/s that are computed, with padding and recomputation.
        """
        if hardware > self.per_second and self.source == "measured":
            self.per_second = max(self.per_second, _measure_peak(self.device))
        if hardware > self.per_second:
            return None
        return model / self.per_second, hardware / self.per_second


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Return a device's peak in FLOP/s, and its source: data sheet or measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS:
            if known in name:
                return peak, "data sheet"
    return _measure_peak(device), "measured"


def _measure_peak(device: torch.device) -> float:
    """Return the FLOP/s of the fastest of some matrix products; takes 0.1 s on a CPU."""
    on_gpu = device.type == "cuda"
    size, dtype, products = (4096, torch.float16, 8) if on_gpu else (1024, torch.float32, 3)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(products):
        started = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
