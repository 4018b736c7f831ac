"""Whisper's forward pass, computed from HalfWeights: the same function as the stock model's.

A pass issues a third of the operations that the stock model issues under autocast: queries, keys
and values are one product, and cross-attention's keys and values are one product for all layers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.utils.checkpoint import checkpoint

from data.log_mel import FRAMES_PER_POSITION
from eval.silence_states import STRIDE, reference_features, states_behind
from trainer.half_precision import adapters
from trainer.half_precision.layers import HalfLayers
from trainer.half_precision.silence import HEAD_PADDING, append_silence, project_silence
from trainer.half_precision.weights import HalfWeights


class HalfForward:
    """Computes a Whisper's logits, and its silence states, in half precision."""

    def __init__(
        self,
        whisper: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        four_bits: bool = False,
        freeze_encoder: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Allocate the weights; HalfWeights.begin_update() casts those that are trained.

        Args:
            whisper: a transformers WhisperForConditionalGeneration, in float32, with its dropout,
                perhaps with adapters.
            dtype: float16 or bfloat16; float32 to compare with the stock model.
            device: that computes.
            four_bits: hold frozen matrices of layers in 4 bits.
            freeze_encoder: run the encoder without gradients.
            gradient_checkpointing: recompute each layer's activations in the backward pass.
        """
        self.whisper = whisper
        self.dtype = dtype
        # the residual sum can exceed float16's largest value in large models
        self.residual = torch.float32 if dtype == torch.float16 else dtype
        self.freeze_encoder = freeze_encoder
        self.gradient_checkpointing = gradient_checkpointing
        encoder, decoder = whisper.model.encoder, whisper.model.decoder
        self.layers = HalfLayers(whisper, encoder.layers[0], dtype)
        self.decoder_layers = HalfLayers(whisper, decoder.layers[0], dtype)
        # compile_layers() replaces both by compiled ones
        self.encoder_layer: Callable[..., Tensor] = self.layers.encoder_layer
        self.decoder_layer: Callable[..., Tensor] = self.decoder_layers.decoder_layer
        self.weights = HalfWeights(
            whisper, dtype, device, head_padding=HEAD_PADDING, four_bits=four_bits
        )
        for kind in ("encoder.layers.qkv", "decoder.layers.cross_q"):
            bias = self.weights.values[f"{kind}.bias"].detach()
            bias[:, 0, :, self._layers_of(kind).head_dim] = 1.0  # the constant channel of queries

    def __call__(
        self, features: Tensor, ids: Tensor, targets: Tensor, silence: Tensor | None
    ) -> Tensor:
        """Return the logits at the targets. Shape: (targets, vocabulary).

        Args:
            features: (batch, n_mels, frames).
            ids: of the decoder's input, (batch, tokens).
            targets: positions in the flattened ids, (targets,).
            silence: of compute_silence_states(), or None.
        """
        values = self.weights.values
        silence = states_behind(silence, features.shape[-1] // FRAMES_PER_POSITION)
        silence = None if silence is None else silence.to(self.dtype)
        with torch.autocast(features.device.type, enabled=False):  # all is in half precision
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
                encoded = self._encode(features, None if silence is None else silence[:-1])
            hidden = self._decode(ids, encoded, None if silence is None else silence[-1:])
            head = values.get("proj_out.weight", values["decoder.embed_tokens.weight"])
            return F.linear(hidden.flatten(0, 1)[targets], head)

    def _encode(self, features: Tensor, silence: Tensor | None) -> Tensor:
        values, hidden = self.weights.values, self._run(self._embed, features)
        layers = self.weights.layers("encoder")
        keys_values: Any = [None] * len(layers)  # of silence
        if silence is not None:
            of_layers = self._keys_values_of_silence(silence, "encoder.layers.qkv").unbind()
            keys_values = self.weights.detach_frozen("encoder", of_layers)
        for layer, of_layer in zip(layers, keys_values, strict=True):
            hidden = self._run(self.encoder_layer, hidden, layer, of_layer)
        return self.layers.norm(hidden, values, "encoder.layer_norm")

    @torch.no_grad()
    def compute_silence_states(self) -> Tensor:
        """Compute what eval.silence_states.compute_silence_states() does, in half precision."""
        self.weights.cast_trained()
        values, training = self.weights.values, self.whisper.training
        device = self.weights.gradient.device
        reference = reference_features(self.whisper.config.num_mel_bins).to(device)
        self.whisper.eval()
        with torch.autocast(device.type, enabled=False):
            hidden, states = self._embed(reference), list[Tensor]()
            for layer in self.weights.layers("encoder"):
                states.append(self.layers.norm(hidden, layer, "self_attn_layer_norm")[:, ::STRIDE])
                hidden = self.layers.encoder_layer(hidden, layer, None)
            states.append(self.layers.norm(hidden, values, "encoder.layer_norm")[:, ::STRIDE])
        self.whisper.train(training)
        return torch.cat(states)

    def _embed(self, features: Tensor) -> Tensor:
        """Return the input of the encoder's layers. Shape: (batch, positions, d_model)."""
        values, hidden = self.weights.values, features.to(self.dtype)
        for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
            weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
            # GELU whatever the layers' activation is, as in the stock model
            hidden = F.gelu(F.conv1d(hidden, weight, bias, stride=stride, padding=1))
        hidden = hidden.transpose(1, 2)  # (batch, positions, d_model)
        positions = values["encoder.embed_positions.weight"][: hidden.shape[1]]
        return self.layers.drop(hidden.to(self.residual) + positions, self.layers.dropout)

    def _decode(self, ids: Tensor, encoded: Tensor, silence: Tensor | None) -> Tensor:
        values, padding = self.weights.values, self.whisper.model.decoder.padding_idx
        embedded = F.embedding(ids, values["decoder.embed_tokens.weight"], padding)
        positions = values["decoder.embed_positions.weight"][: ids.shape[1]]
        hidden = self.layers.drop(embedded.to(self.residual) + positions, self.layers.dropout)
        kind = "decoder.layers.cross_kv"
        if self.gradient_checkpointing and f"{kind}.weight" in values:
            return self._decode_with_checkpoints(hidden, encoded, silence)
        at_once = values | {f"{kind}.weight": self.weights.at_once(f"{kind}.weight")}
        # of all layers in one product; (layers, 2, batch, positions, heads, channels)
        pairs = self.layers.project(encoded, at_once, kind).movedim((2, 3), (0, 1))
        if silence is not None:
            pairs = append_silence(pairs, self._keys_values_of_silence(silence, kind))
        keys_values = pairs.flatten(0, 1).unbind()  # each (batch, positions, heads, channels)
        layers = self.weights.layers("decoder")
        for layer, key, value in zip(layers, keys_values[::2], keys_values[1::2], strict=True):
            hidden = self._run(self.decoder_layer, hidden, layer, key, value)
        return self.layers.norm(hidden, values, "decoder.layer_norm")

    def _decode_with_checkpoints(
        self, hidden: Tensor, encoded: Tensor, silence: Tensor | None
    ) -> Tensor:
        """Run the decoder's layers, each of which projects its keys and values again."""
        layers = self.weights.layers("decoder", at_once=True)
        keys_values: Any = [None] * len(layers)  # of silence
        if silence is not None:
            keys_values = self._keys_values_of_silence(silence, "decoder.layers.cross_kv").unbind()
        for layer, of_layer in zip(layers, keys_values, strict=True):
            hidden = self._run(self._project_and_decode, hidden, layer, encoded, of_layer)
        return self.layers.norm(hidden, self.weights.values, "decoder.layer_norm")

    def _project_and_decode(
        self, hidden: Tensor, layer: dict[str, Any], encoded: Tensor, silence: Tensor | None
    ) -> Tensor:
        pair = self.layers.project(encoded, layer, "cross_kv").movedim(2, 0)
        key, value = pair if silence is None else append_silence(pair, silence)
        return self.decoder_layer(hidden, layer, key, value)

    def _run(self, layer: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Run a layer, with gradient checkpointing if that is set."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            random = self.layers.has_dropout  # its state cannot be read while a graph is captured
            hidden: Tensor = checkpoint(
                layer, *arguments, use_reentrant=False, preserve_rng_state=random
            )
            return hidden
        return layer(*arguments)

    def _keys_values_of_silence(self, states: Tensor, name: str) -> Tensor:
        """Return the keys and values of silence. Shape: (layers, 2, n, heads, channels)."""
        values, layers = self.weights.values, self._layers_of(name)
        weight, bias = self.weights.dense(f"{name}.weight")[:, -2:], values[f"{name}.bias"][:, -2:]
        pairs = project_silence(states, weight, bias, channel=layers.head_dim, scale=layers.scale)
        down = values.get(f"{name}.{adapters.DOWN}")
        if self.layers.adapters is None or down is None:
            return pairs
        inputs, up = (
            self.layers.drop(states, self.layers.adapters.dropout),
            values[f"{name}.{adapters.UP}"],
        )
        added = adapters.adapter_keys_values(inputs, down[:, -2:], up[:, -2:])
        return torch.add(pairs, added, alpha=self.layers.adapters.scale)

    def _layers_of(self, name: str) -> HalfLayers:
        """Return the encoder's or the decoder's layers, by the name of a kind of weights."""
        return self.layers if name.startswith("encoder.") else self.decoder_layers
