"""Whisper's forward pass, computed from HalfWeights: the same function as the stock model's.

A pass issues a third of the operations that the stock model issues under autocast: queries, keys
and values are one product, and cross-attention's keys and values are one product for all layers.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN

from data.log_mel import FRAMES_PER_POSITION
from eval.silence_states import STRIDE, first_silence_state, reference_features
from trainer.half_precision import adapters
from trainer.half_precision.four_bit import linear
from trainer.half_precision.silence import HEAD_PADDING, append_silence, project_silence
from trainer.half_precision.weights import HalfWeights

Values = dict[str, Any]  # weights by kind: of the model, or of one layer


class HalfForward:
    """Computes a Whisper's hidden states and logits in half precision."""

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
        layer = whisper.model.encoder.layers[0]
        self.whisper = whisper
        self.dtype = dtype
        # the residual sum can exceed float16's largest value in large models
        self.residual = torch.float32 if dtype == torch.float16 else dtype
        self.freeze_encoder = freeze_encoder
        self.gradient_checkpointing = gradient_checkpointing
        self.heads, self.head_dim = layer.self_attn.num_heads, layer.self_attn.head_dim
        self.scale = self.head_dim**-0.5
        self.dropout, self.activation_dropout = layer.dropout, layer.activation_dropout
        self.attention_dropout = layer.self_attn.dropout
        self.activation: Callable[[Tensor], Tensor] = ACT2FN[whisper.config.activation_function]
        self.adapters = adapters.adapter_config(whisper)
        self.weights = HalfWeights(
            whisper, dtype, device, head_padding=HEAD_PADDING, four_bits=four_bits
        )
        for kind in ("encoder.layers.qkv", "decoder.layers.cross_q"):
            bias = self.weights.values[f"{kind}.bias"].detach()
            bias[:, 0, :, self.head_dim] = 1.0  # the constant channel of queries

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
        if silence is not None:
            first = first_silence_state(features.shape[-1] // FRAMES_PER_POSITION)
            silence = silence[:, first:].to(self.dtype) if first < silence.shape[1] else None
        with torch.autocast(features.device.type, enabled=False):  # all is in half precision
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
                encoded = self._encode(features, None if silence is None else silence[:-1])
            hidden = self._decode(ids, encoded, None if silence is None else silence[-1:])
            head = values.get("proj_out.weight", values["decoder.embed_tokens.weight"])
            return F.linear(hidden.flatten(0, 1)[targets], head)

    def _encode(self, features: Tensor, silence: Tensor | None) -> Tensor:
        values, hidden = self.weights.values, self._embed(features)
        layers = self.weights.layers("encoder")
        behind: Any = [None] * len(layers)
        if silence is not None:
            behind = self._keys_values_of_silence(silence, "encoder.layers.qkv").unbind()
        for layer, shared in zip(layers, behind, strict=True):
            hidden = self._run(self._encoder_layer, hidden, layer, shared)
        return self._norm(hidden, values, "encoder.layer_norm")

    def first_encoder_layer(self, hidden: Tensor) -> Tensor:
        """Compute a layer without gradient checkpointing and silence states."""
        with torch.autocast(hidden.device.type, enabled=False):
            layer = self.weights.layers("encoder")[0]
            return self._encoder_layer(hidden.to(self.residual), layer, None)

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
                states.append(self._norm(hidden, layer, "self_attn_layer_norm")[:, ::STRIDE])
                hidden = self._encoder_layer(hidden, layer, None)
            states.append(self._norm(hidden, values, "encoder.layer_norm")[:, ::STRIDE])
        self.whisper.train(training)
        return torch.cat(states)

    def _embed(self, features: Tensor) -> Tensor:
        """Return the input of the encoder's layers. Shape: (batch, positions, d_model)."""
        values, hidden = self.weights.values, features.to(self.dtype)
        for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
            weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
            hidden = self.activation(F.conv1d(hidden, weight, bias, stride=stride, padding=1))
        hidden = hidden.transpose(1, 2)  # (batch, positions, d_model)
        positions = values["encoder.embed_positions.weight"][: hidden.shape[1]]
        return self._drop(hidden.to(self.residual) + positions, self.dropout)

    def _decode(self, ids: Tensor, encoded: Tensor, silence: Tensor | None) -> Tensor:
        values, padding = self.weights.values, self.whisper.model.decoder.padding_idx
        embedded = F.embedding(ids, values["decoder.embed_tokens.weight"], padding)
        positions = values["decoder.embed_positions.weight"][: ids.shape[1]]
        hidden = self._drop(embedded.to(self.residual) + positions, self.dropout)
        kind = "decoder.layers.cross_kv"
        at_once = values | {f"{kind}.weight": self.weights.at_once(f"{kind}.weight")}
        pairs = self._project(encoded, at_once, kind)  # of all layers in one product
        if silence is not None:
            pairs = append_silence(pairs, self._keys_values_of_silence(silence, kind))
        keys_values = pairs.flatten(0, 1).unbind()  # each (batch, heads, positions, channels)
        layers = self.weights.layers("decoder")
        for layer, key, value in zip(layers, keys_values[::2], keys_values[1::2], strict=True):
            hidden = self._run(self._decoder_layer, hidden, layer, key, value)
        return self._norm(hidden, values, "decoder.layer_norm")

    def _encoder_layer(self, hidden: Tensor, layer: Values, shared: Tensor | None) -> Tensor:
        projected = self._project(self._norm(hidden, layer, "self_attn_layer_norm"), layer, "qkv")
        if shared is None:
            query, key, value = projected.unbind()
        else:
            first, keys_values = projected.split([1, 2])
            query, (key, value) = first[0], append_silence(keys_values, shared).unbind()
        hidden = hidden + self._attend(query, key, value, layer, "out")
        return hidden + self._mlp(self._norm(hidden, layer, "final_layer_norm"), layer)

    def _decoder_layer(self, hidden: Tensor, layer: Values, key: Tensor, value: Tensor) -> Tensor:
        normed = self._norm(hidden, layer, "self_attn_layer_norm")
        query, own_key, own_value = self._project(normed, layer, "qkv").unbind()
        hidden = hidden + self._attend(query, own_key, own_value, layer, "out", is_causal=True)
        normed = self._norm(hidden, layer, "encoder_attn_layer_norm")
        (query,) = self._project(normed, layer, "cross_q").unbind()
        hidden = hidden + self._attend(query, key, value, layer, "cross_out")
        return hidden + self._mlp(self._norm(hidden, layer, "final_layer_norm"), layer)

    def _run(self, layer: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Run a layer, with gradient checkpointing if that is set."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            hidden: Tensor = checkpoint(layer, *arguments, use_reentrant=False)
            return hidden
        return layer(*arguments)

    def _norm(self, hidden: Tensor, values: Values, name: str) -> Tensor:
        """Normalize in the residual sum's dtype, and return half precision."""
        weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
        shape, dtype = hidden.shape[-1:], hidden.dtype
        return F.layer_norm(hidden, shape, weight.to(dtype), bias.to(dtype)).to(self.dtype)

    def _project(self, hidden: Tensor, layer: Values, name: str) -> Tensor:
        """Project to heads: (batch, n, d_model) → (projections, batch, heads, n, channels).

        The projections have as many dimensions as in the bias (projections, heads, channels).
        """
        *projections, heads, channels = layer[f"{name}.bias"].shape
        product = self._linear(hidden, layer, name, math.prod(projections))
        product = product.unflatten(-1, (heads, channels)).transpose(2, 3)
        return product.unflatten(0, projections)

    def _linear(self, hidden: Tensor, layer: Values, name: str, groups: int = 1) -> Tensor:
        """Apply groups of linear layers, and their adapters. Shape: (groups, batch, n, outputs)."""
        product = linear(hidden, layer[f"{name}.weight"], layer[f"{name}.bias"].flatten())
        product = product.unflatten(-1, (groups, -1)).movedim(-2, 0)
        down = layer.get(f"{name}.{adapters.DOWN}")
        if self.adapters is None or down is None:
            return product
        inputs = self._drop(hidden, self.adapters.dropout)
        return adapters.add_adapter_outputs(
            product, inputs, down, layer[f"{name}.{adapters.UP}"], self.adapters
        )

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layer: Values,
        output: str,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        """Attend, and apply the output projection. Shape: (batch, n, d_model)."""
        states = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.attention_dropout if self.whisper.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
        )
        attended = self._linear(states.transpose(1, 2).flatten(2), layer, output)[0]
        return self._drop(attended, self.dropout)

    def _mlp(self, hidden: Tensor, layer: Values) -> Tensor:
        hidden = self.activation(self._linear(hidden, layer, "fc1")[0])
        hidden = self._drop(hidden, self.activation_dropout)
        return self._drop(self._linear(hidden, layer, "fc2")[0], self.dropout)

    def _drop(self, hidden: Tensor, probability: float) -> Tensor:
        if not (probability and self.whisper.training):
            return hidden
        return F.dropout(hidden, probability)

    def _keys_values_of_silence(self, states: Tensor, name: str) -> Tensor:
        """Return the keys and values of silence. Shape: (layers, 2, heads, n, channels)."""
        values = self.weights.values
        weight, bias = self.weights.dense(f"{name}.weight")[:, -2:], values[f"{name}.bias"][:, -2:]
        pairs = project_silence(states, weight, bias, channel=self.head_dim, scale=self.scale)
        down = values.get(f"{name}.{adapters.DOWN}")
        if self.adapters is None or down is None:
            return pairs
        inputs, up = self._drop(states, self.adapters.dropout), values[f"{name}.{adapters.UP}"]
        added = adapters.adapter_keys_values(inputs, down[:, -2:], up[:, -2:])
        return torch.add(pairs, added, alpha=self.adapters.scale)
