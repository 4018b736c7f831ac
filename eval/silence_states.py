"""Attention states of silence, which replace the padding behind clips of true length.

Whisper was trained on windows of 30 s. The decoder and the encoder's layers attend to the silence
behind a short clip, so a clip at its true length is a different input. The states of that silence
hardly depend on the clip. They are computed once, from a reference, and appended to the keys and
values of every clip: every 8th position, with log 8 added to its attention logit, since it stands
for 8. The encoder then computes true lengths, and attention sees what it sees of 30 s.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperAttention

from data.log_mel import FRAMES_PER_POSITION, SAMPLE_RATE, LogMel, frames_of, pad_features

STRIDE = 8  # positions that one state stands for
# of speech-like noise before the silence: the log-mel of silence depends on the loudest frame
REFERENCE_SECONDS = 1.0
LOUDNESS = 0.1  # standard deviation of the noise; full scale is 1
LOWEST_HERTZ = 20
REFERENCE_POSITIONS = frames_of(REFERENCE_SECONDS) // FRAMES_PER_POSITION
CACHE = ("cache", "past_key_values")  # the argument's name in transformers from 5.24 on, and before
FIRST = math.ceil(REFERENCE_POSITIONS / STRIDE) + 1  # index of the first silent state


class AttentionWithSilence(WhisperAttention):
    """Whisper's attention over its input and the silence states. The parameters are the same."""

    silence: Tensor | None = None  # (1, positions / STRIDE, d_model); None: stock attention

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Attend to the input and the silence. Shape, also of the result: (batch, positions, d)."""
        source = hidden_states if key_value_states is None else key_value_states
        silence = self.silence_behind(source.shape[1])
        if silence is None:
            return super().forward(
                hidden_states, key_value_states, attention_mask=attention_mask, **kwargs
            )
        lengths = (source.shape[1], silence.shape[1])
        caches = [kwargs[name] for name in CACHE if kwargs.get(name) is not None]
        if caches:  # in generate(), which computes the encoder's keys and values once a clip
            mask = silence_bias(*lengths, source.dtype, source.device)
            mask = mask.expand(-1, -1, hidden_states.shape[1], -1)
            if not caches[0].is_updated.get(self.layer_idx):
                behind = silence.to(source.dtype).expand(len(source), -1, -1)
                source = torch.cat([source, behind], dim=1)
            return super().forward(hidden_states, source, attention_mask=mask, **kwargs)
        query = self._heads(self.q_proj(hidden_states) * self.scaling)
        key, value = (
            self._append_shared(self._heads(project(source)), self._heads(project(silence)))
            for project in (self.k_proj, self.v_proj)
        )
        output = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            silence_bias(*lengths, query.dtype, query.device).expand(
                -1, -1, hidden_states.shape[1], -1
            ),
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self.out_proj(output.transpose(1, 2).flatten(2)), None

    def silence_behind(self, positions: int) -> Tensor | None:
        """Return the silence states behind a clip; shape (1, states, d_model)."""
        return states_behind(self.silence, positions)

    @staticmethod
    def _append_shared(own: Tensor, shared: Tensor) -> Tensor:
        """Append the shared positions to each row. Shape: (batch, heads, positions, head_dim)."""
        return torch.cat([own, shared.expand(len(own), -1, -1, -1)], dim=2)

    def _heads(self, states: Tensor) -> Tensor:
        """Split heads: (batch, positions, d_model) → (batch, heads, positions, head_dim)."""
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def states_behind(silence: Tensor | None, positions: int) -> Tensor | None:
    """Return the silence states behind a clip; None if there are none.

    Args:
        silence: (…, positions / STRIDE, d_model), or None.
        positions: of the clip.
    """
    first = max(FIRST, -(-positions // STRIDE))
    return None if silence is None or first >= silence.shape[1] else silence[:, first:]


@lru_cache(maxsize=64)  # of a few kilobytes each; every layer and every decoded token needs one
def silence_bias(positions: int, states: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what is added to the attention logits of a clip and of the silence states behind it.

    Args:
        positions: of the clip.
        states: silence states, each of which stands for STRIDE positions.
        dtype: of the attention.
        device: of the attention.

    Returns:
        Shape: (1, 1, 1, positions + states).
    """
    with torch.inference_mode(mode=False):  # training uses it too
        bias = torch.zeros(1, 1, 1, positions + states, dtype=dtype, device=device)
        bias[..., positions:] = math.log(STRIDE)
    return bias


def patch_attention(model: Any) -> None:
    """Replace the attention classes of a model, so that set_silence_states() can be used on it.

    Args:
        model: a WhisperForConditionalGeneration.
    """
    for attention in _attentions(model):
        attention.__class__ = AttentionWithSilence


@torch.no_grad()
def compute_silence_states(model: Any) -> Tensor:
    """Compute the states of silence with the model's current weights.

    Returns:
        Inputs of each encoder layer's attention, and the encoder output. Shape:
        (encoder layers + 1, positions / STRIDE, d_model).
    """
    encoder = model.model.encoder
    inputs: list[Tensor] = []

    def keep(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs.append((args[0] if args else kwargs["hidden_states"])[0, ::STRIDE])

    hooks = [
        layer.self_attn.register_forward_pre_hook(keep, with_kwargs=True)
        for layer in encoder.layers
    ]
    training = encoder.training
    try:
        encoder.eval()
        reference = reference_features(model.config.num_mel_bins).to(model.device, model.dtype)
        output = encoder(reference).last_hidden_state
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return torch.stack([*inputs, output[0, ::STRIDE]])


def set_silence_states(model: Any, silence: Tensor | None) -> None:
    """Set the silence states of a model's attention, or None for stock attention.

    Args:
        model: after patch_attention().
        silence: what compute_silence_states() returned.
    """
    layers = len(model.model.encoder.layers)
    if silence is not None:
        silence = silence.to(model.dtype)
    for number, attention in enumerate(_attentions(model)):
        attention.silence = None if silence is None else silence[min(number, layers)][None]


def _attentions(model: Any) -> list[Any]:
    """Return the encoder layers' self-attention and the decoder layers' cross-attention."""
    encoder = [layer.self_attn for layer in model.model.encoder.layers]
    return encoder + [layer.encoder_attn for layer in model.model.decoder.layers]


def reference_features(n_mels: int) -> Tensor:
    """Return features of 1 s of pink noise and silence up to 30 s. Shape: (1, n_mels, 3000).

    The last bits of an FFT depend on memory alignment. Rounded to 16 bits, the noise is the same in
    every process and every run.
    """
    samples = round(REFERENCE_SECONDS * SAMPLE_RATE)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(1, samples, generator=generator, dtype=torch.float64)
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, dtype=torch.float64).clamp(
        min=LOWEST_HERTZ
    )
    pink = torch.fft.irfft(torch.fft.rfft(white) / hertz.sqrt(), samples)
    sound = (LOUDNESS * pink / pink.std() * 2**15).round() / 2**15
    return pad_features(LogMel(n_mels)(sound.float()))
