"""The layers of HalfForward: what the stock layers compute, with fewer operations."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from transformers.activations import ACT2FN

from trainer.half_precision import adapters
from trainer.half_precision.four_bit import linear
from trainer.half_precision.silence import append_silence

Values = dict[str, Any]  # weights by kind: of the model, or of one layer


class HalfLayers:
    """Computes encoder and decoder layers from the weights of one layer."""

    def __init__(self, whisper: Any, layer: Any, dtype: torch.dtype) -> None:
        """Read the settings of a model's encoder or decoder, whose heads may differ in size.

        Args:
            whisper: a WhisperForConditionalGeneration, with its dropout, perhaps with adapters.
            layer: any layer of the encoder or the decoder.
            dtype: of the computation; the residual sum may have another.
        """
        self.whisper = whisper
        self.dtype = dtype
        self.head_dim = layer.self_attn.head_dim
        self.scale = self.head_dim**-0.5
        self.dropout, self.activation_dropout = layer.dropout, layer.activation_dropout
        self.attention_dropout = layer.self_attn.dropout
        self.activation: Callable[[Tensor], Tensor] = ACT2FN[whisper.config.activation_function]
        self.adapters = adapters.adapter_config(whisper)
        rates = (self.dropout, self.activation_dropout, self.attention_dropout)
        self.has_dropout = any(rates) or (self.adapters is not None and self.adapters.dropout > 0)

    def encoder_layer(self, hidden: Tensor, layer: Values, silence: Tensor | None) -> Tensor:
        """Compute an encoder layer. Shape: (batch, positions, d_model).

        Args:
            hidden: (batch, positions, d_model).
            layer: its weights.
            silence: keys and values of silence, (2, n, heads, channels), or None.
        """
        projected = self.project(self.norm(hidden, layer, "self_attn_layer_norm"), layer, "qkv")
        if silence is None:
            query, key, value = projected.unbind(2)
        else:
            first, pair = projected.split([1, 2], dim=2)
            query, (key, value) = first.squeeze(2), append_silence(pair.movedim(2, 0), silence)
        hidden = hidden + self._attend(query, key, value, layer, "out")
        return hidden + self._mlp(self.norm(hidden, layer, "final_layer_norm"), layer)

    def decoder_layer(self, hidden: Tensor, layer: Values, key: Tensor, value: Tensor) -> Tensor:
        """Compute a decoder layer. Shape: (batch, tokens, d_model).

        Args:
            hidden: (batch, tokens, d_model).
            layer: its weights.
            key: of cross-attention, (batch, positions, heads, channels).
            value: alike.
        """
        normed = self.norm(hidden, layer, "self_attn_layer_norm")
        query, own_key, own_value = self.project(normed, layer, "qkv").unbind(2)
        hidden = hidden + self._attend(query, own_key, own_value, layer, "out", is_causal=True)
        normed = self.norm(hidden, layer, "encoder_attn_layer_norm")
        query = self.project(normed, layer, "cross_q").squeeze(2)
        hidden = hidden + self._attend(query, key, value, layer, "cross_out")
        return hidden + self._mlp(self.norm(hidden, layer, "final_layer_norm"), layer)

    def norm(self, hidden: Tensor, values: Values, name: str) -> Tensor:
        """Normalize in the residual sum's dtype, and return half precision."""
        weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
        shape, dtype = hidden.shape[-1:], hidden.dtype
        return F.layer_norm(hidden, shape, weight.to(dtype), bias.to(dtype)).to(self.dtype)

    def project(self, hidden: Tensor, layer: Values, name: str) -> Tensor:
        """Project to heads: (batch, n, d_model) → (batch, n, projections, heads, channels).

        The projections have as many dimensions as in the bias (projections, heads, channels).
        """
        shape = layer[f"{name}.bias"].shape
        return self._linear(hidden, layer, name, math.prod(shape[:-2])).unflatten(-1, shape)

    def _linear(self, hidden: Tensor, layer: Values, name: str, groups: int = 1) -> Tensor:
        """Apply groups of linear layers, and their adapters: (batch, n, groups * outputs)."""
        product = linear(hidden, layer[f"{name}.weight"], layer[f"{name}.bias"].flatten())
        down = layer.get(f"{name}.{adapters.DOWN}")
        if self.adapters is None or down is None:
            return product
        inputs, up = self.drop(hidden, self.adapters.dropout), layer[f"{name}.{adapters.UP}"]
        return adapters.add_adapter_outputs(product, inputs, down, up, self.adapters)

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
        """Attend, and apply the output projection. Shape: (batch, n, d_model).

        Queries, keys and values are (batch, n, heads, channels).
        """
        states = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            dropout_p=self.attention_dropout if self.whisper.training else 0.0,
            is_causal=is_causal,
            scale=self.scale,
        )
        attended = self._linear(states.transpose(1, 2).flatten(2), layer, output)
        return self.drop(attended, self.dropout)

    def _mlp(self, hidden: Tensor, layer: Values) -> Tensor:
        hidden = self.activation(self._linear(hidden, layer, "fc1"))
        hidden = self.drop(hidden, self.activation_dropout)
        return self.drop(self._linear(hidden, layer, "fc2"), self.dropout)

    def drop(self, hidden: Tensor, probability: float) -> Tensor:
        """Apply dropout in training."""
        if not (probability and self.whisper.training):
            return hidden
        return F.dropout(hidden, probability)
