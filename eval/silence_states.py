"""The silence behind a short clip, which Whisper's attention rests on.

Whisper was trained on windows of 30 s. Cut to its own length, a clip is another input: the decoder
and the encoder's layers put their attention on the silence behind it, and it is gone. Its states
hardly depend on the clip, so they are computed once, of a reference, and every clip's attention
reads them behind its own: every 8th, each standing for 8, by adding log 8 to its logit. The
encoder then computes true lengths, and what it and the decoder see is what they see of 30 s.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperAttention

from data.log_mel import FRAMES_PER_POSITION, SAMPLE_RATE, LogMel, frames_of, pad_features

STRIDE = 8  # positions that one state stands for
REFERENCE_SECONDS = 1.0  # of noise like speech: the level of silence depends on what is loudest
LOUDNESS = 0.1  # its standard deviation, of 1
LOWEST_HERTZ = 20
REFERENCE_POSITIONS = frames_of(REFERENCE_SECONDS) // FRAMES_PER_POSITION
CACHE = ("cache", "past_key_values")  # transformers from 5.24 on, and before
FIRST = math.ceil(REFERENCE_POSITIONS / STRIDE) + 1  # state that is silent


class AttentionWithSilence(WhisperAttention):
    """Whisper's attention, over its input and the silence behind. The parameters are the same."""

    silence: Tensor | None = None  # (1, positions / STRIDE, d_model); None: stock attention

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Attend. Shape of states and result: (batch, positions, d_model)."""
        source = hidden_states if key_value_states is None else key_value_states
        kept = 0 if self.silence is None else self.silence.shape[1]
        first = max(FIRST, -(-source.shape[1] // STRIDE))
        if self.silence is None or first >= kept:
            return super().forward(
                hidden_states, key_value_states, attention_mask=attention_mask, **kwargs
            )
        silence = self.silence[:, first:]
        mask = torch.zeros(source.shape[1] + kept - first, device=source.device)
        mask[source.shape[1] :] = math.log(STRIDE)
        caches = [kwargs[name] for name in CACHE if kwargs.get(name) is not None]
        if caches:  # of generate, which keeps keys and values: they are computed once a clip
            mask = mask.to(source.dtype).expand(1, 1, hidden_states.shape[1], -1)
            if not caches[0].is_updated.get(self.layer_idx):
                behind = silence.to(source.dtype).expand(len(source), -1, -1)
                source = torch.cat([source, behind], dim=1)
            return super().forward(hidden_states, source, attention_mask=mask, **kwargs)
        query = self._heads(self.q_proj(hidden_states) * self.scaling)
        key, value = (
            self._after(self._heads(project(source)), self._heads(project(silence)))
            for project in (self.k_proj, self.v_proj)
        )
        heard = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask.to(query.dtype).expand(1, 1, hidden_states.shape[1], -1),
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self.out_proj(heard.transpose(1, 2).flatten(2)), None

    @staticmethod
    def _after(own: Tensor, shared: Tensor) -> Tensor:
        """Put what all rows share behind what each has. Shape: (batch, heads, positions, …)."""
        return torch.cat([own, shared.expand(len(own), -1, -1, -1)], dim=2)

    def _heads(self, states: Tensor) -> Tensor:
        """Split. Shapes: (batch, positions, d_model) → (batch, heads, positions, head_dim)."""
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def patch_attention(model: Any) -> None:
    """Let a WhisperForConditionalGeneration's attention hear silence, once it is lent some."""
    for attention in _attentions(model):
        attention.__class__ = AttentionWithSilence


@torch.no_grad()
def compute_silence_states(model: Any) -> Tensor:
    """Return the states of silence, as the model makes them now.

    Returns:
        Of the input of each encoder layer's attention, and of the encoder's output: shape
        (encoder layers + 1, positions / STRIDE, d_model).
    """
    encoder = model.model.encoder
    found: list[Tensor] = []

    def keep(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0, ::STRIDE])

    hooks = [
        layer.self_attn.register_forward_pre_hook(keep, with_kwargs=True)
        for layer in encoder.layers
    ]
    training = encoder.training
    try:
        encoder.eval()
        reference = _reference(model.config.num_mel_bins).to(model.device, model.dtype)
        heard = encoder(reference).last_hidden_state
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return torch.stack([*found, heard[0, ::STRIDE]])


def set_silence_states(model: Any, silence: Tensor | None) -> None:
    """Let the model's attention read states that listen() returned, or none."""
    layers = len(model.model.encoder.layers)
    if silence is not None:
        silence = silence.to(model.dtype)
    for number, attention in enumerate(_attentions(model)):
        attention.silence = None if silence is None else silence[min(number, layers)][None]


def _attentions(model: Any) -> list[Any]:
    """Return the attention of the encoder's layers, and the decoder's to the encoder."""
    own = [layer.self_attn for layer in model.model.encoder.layers]
    return own + [layer.encoder_attn for layer in model.model.decoder.layers]


def _reference(n_mels: int) -> Tensor:
    """Return features of a short pink noise, and silence behind. Shape: (1, n_mels, 3000).

    A transform's last bits depend on where its memory lies: rounded to 16 bits they are gone, and
    every process and every start hears the same.
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
