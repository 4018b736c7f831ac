"""Whisper's arithmetic, from the shapes in its config; 2 FLOPs a multiply-add.

Matrix products only, as in the appendix of PaLM (arXiv 2204.02311) that MFU comes from. Per layer
of width d: 24 d² for an encoder position's projections and MLP, 28 d² for a decoder position's (it
has a cross-attention too), 4 d² for each encoder position's cross-attention keys and values, and
4 d a pair of positions that attend. Then the two convolutions and the LM head.
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

# dense fp16/bf16 peaks in FLOP/s, from the makers' data sheets; matched in order
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
    frozen_weights: bool = False  # adapters learn instead; what they compute is too little to count
    recomputes: bool = False  # gradient checkpointing goes forward twice

    @classmethod
    def of(
        cls,
        config: Any,
        *,
        frozen_encoder: bool = False,
        frozen_weights: bool = False,
        recomputes: bool = False,
    ) -> "WhisperFlops":
        """Take the shapes from a transformers WhisperConfig."""
        return cls(
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            n_mels=config.num_mel_bins,
            vocabulary=config.vocab_size,
            frozen_encoder=frozen_encoder,
            frozen_weights=frozen_weights,
            recomputes=recomputes,
        )

    def encoder(self, positions: float) -> float:
        """Return the FLOPs of encoding one clip of so many positions."""
        d, s = self.d_model, positions
        layer = 24 * d * d * s + 4 * d * s * s
        convolutions = 12 * self.n_mels * d * s + 6 * d * d * s
        return self.encoder_layers * layer + convolutions

    def decoder(self, positions: float, tokens: int) -> float:
        """Return the FLOPs of decoding so many tokens of one clip, teacher-forced."""
        d, s, u = self.d_model, positions, tokens
        layer = 28 * d * d * u + 4 * d * d * s + 4 * d * u * s + 4 * d * u * u
        return self.decoder_layers * layer + 2 * d * self.vocabulary * u

    def train(self, clips: Iterable[tuple[float, int]]) -> float:
        """Return the useful FLOPs of training on clips of (seconds, tokens): no padding counted.

        Forward once and backward twice, or once where weights are frozen; a frozen encoder goes
        forward only. What gradient checkpointing computes again is not counted.
        """
        return self._trained(clips, again=False)

    def computed(self, rows: Iterable[tuple[float, int]]) -> float:
        """Return the FLOPs of training on padded rows, with what gradient checkpointing repeats."""
        return self._trained(rows, again=self.recomputes)

    def _trained(self, clips: Iterable[tuple[float, int]], *, again: bool) -> float:
        total = 0.0
        for seconds, tokens in clips:
            s = seconds * POSITIONS_PER_SECOND
            heard, said = self.encoder(s), self.decoder(s, tokens)
            passed = said if self.frozen_encoder else said + heard  # by a gradient, on its way back
            back = passed + self._attended(s, tokens) if self.frozen_weights else 2 * passed
            total += heard + said + back + (passed if again else 0.0)
        return total

    def _attended(self, positions: float, tokens: int) -> float:
        """Return the FLOPs of what has no weights: positions and tokens that attend."""
        d, s, u = self.d_model, positions, tokens
        encoder = 0.0 if self.frozen_encoder else self.encoder_layers * 4 * d * s * s
        return encoder + self.decoder_layers * (4 * d * u * s + 4 * d * u * u)

    def activation_bytes(self, shape: Shape) -> float:
        """Return about how many bytes a pass keeps for its backward, to compare passes by.

        In half precision and without dropout a layer keeps 34 d bytes of a position (section 4.1
        of arXiv 2205.05198; fused attention keeps no scores). The decoder's cross-attention adds
        13 d of a token, and 4 d of an encoder position for keys and values. Of what gradient
        checkpointing computes again only a layer's input stays. The loss holds three times the
        logits in float32: the log-softmax and two gradients. Autocast's copies make it 1.3 times
        as much, of audio as of tokens (counted for tiny and small); weights are not in it.
        """
        d, positions = self.d_model, shape.frames / FRAMES_PER_POSITION
        layer, cross, keys = (4 * d, 0, 0) if self.recomputes else (34 * d, 13 * d, 4 * d)
        encoder = 0 if self.frozen_encoder else self.encoder_layers * layer
        encoder += self.decoder_layers * keys
        decoder = self.decoder_layers * (layer + cross) + 3 * 4 * self.vocabulary
        return shape.rows * (positions * encoder + shape.tokens * decoder)

    def of_pass(self, shape: Shape) -> float:
        """Return the FLOPs of training on a pass."""
        row = (shape.frames / FRAMES_PER_SECOND, shape.tokens)
        return shape.rows * self.computed([row])


def flops_of(whisper: Whisper, config: ModelConfig) -> WhisperFlops:
    """Return the FLOPs of training a model with these settings."""
    return WhisperFlops.of(
        whisper.model.config,
        frozen_encoder=config.frozen_encoder,
        frozen_weights=config.lora_rank is not None,
        recomputes=config.gradient_checkpointing,
    )


@dataclass(slots=True)
class Peak:
    """A device's peak: one that was measured is measured again where it is exceeded."""

    device: torch.device
    per_second: float  # FLOP/s
    source: str  # data sheet or measured

    def shares(self, useful: float, made: float) -> tuple[float, float] | None:
        """Return which shares of the peak are MFU and HFU; None where the peak is not known.

        That is where more was computed than the peak allows: the device was busy with something
        else when it was measured, and still is.

        Args:
            useful: FLOP/s that the clips need at their own length.
            made: FLOP/s of all that was computed.
        """
        if made > self.per_second and self.source == "measured":
            self.per_second = max(self.per_second, _measured_peak(self.device))
        if made > self.per_second:
            return None
        return useful / self.per_second, made / self.per_second


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Return a device's peak in FLOP/s, and where the figure comes from: data sheet or measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS:
            if known in name:
                return peak, "data sheet"
    return _measured_peak(device), "measured"


def _measured_peak(device: torch.device) -> float:
    """Return the best of a few large matrix products, in FLOP/s. Takes about half a second."""
    size = 4096 if device.type == "cuda" else 1024
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
