"""Memory of fixed size for decoding: keys, values and token ids of the rows of a batch.

transformers' StaticCache has a fixed size too, but rows cannot leave it, every layer computes the
position of a token again (five operations a layer and token where two suffice), and its
cross-attention has no mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eval.silence_states import silence_bias

ALIGNMENT = 8  # elements: else attention on a GPU would copy the mask at each call


class CacheShape(NamedTuple):
    """Size of a batch's memory."""

    rows: int
    positions: int  # of the encoder output and the silence states behind it
    tokens: int
    biased: bool  # whether cross-attention adds a bias to its logits


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """Keys and values of a decoder layer. Shape: (rows, heads, tokens or positions, head_dim)."""

    keys: Tensor
    values: Tensor
    cross_keys: Tensor  # of the encoder output
    cross_values: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingState:
    """The memory of a batch. A step of fewer rows uses the first ones."""

    shape: CacheShape
    caches: list[LayerCache]
    ids: Tensor  # (rows, tokens) int64, from the start token on
    ended: Tensor  # (rows,) bool: the end token or the limit has been reached
    limits: Tensor  # (rows,) int64: tokens at most, with the prefix
    position: Tensor  # (1,) int64: of the newest token
    causal_bias: Tensor  # (tokens, tokens): added to the logits of self-attention
    cross_bias: Tensor | None  # (1, 1, 1, positions): added to the logits of cross-attention
    graphs: dict[tuple[int, int], Any] = field(default_factory=dict)  # by rows and cache length

    def fits(self, shape: CacheShape) -> bool:
        """Return whether a batch of a shape can use this memory."""
        own = self.shape
        same = (own.positions, own.biased) == (shape.positions, shape.biased)
        return same and own.rows >= shape.rows and own.tokens >= shape.tokens

    def fill(
        self, layers: Any, states: Tensor, prefixes: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> None:
        """Store a batch.

        Args:
            layers: of the decoder.
            states: encoder output. Shape: (batch, positions, d_model).
            prefixes: the tokens before each text, the same number for all clips.
            limits: number of tokens of each clip at most, with its prefix.
        """
        (rows, positions, _), device = states.shape, states.device
        self.ids[:rows, : len(prefixes[0])] = torch.tensor(prefixes, device=device)
        self.limits[:rows] = torch.tensor(limits, device=device)
        self.ended.fill_(True)
        self.ended[:rows] = False
        if self.cross_bias is not None:
            silence = layers[0].encoder_attn.silence_behind(positions)
            count = 0 if silence is None else silence.shape[1]
            bias = silence_bias(positions, count, states.dtype, device)
            self.cross_bias.fill_(-torch.inf)
            self.cross_bias[..., : positions + count] = bias
        for layer, cache in zip(layers, self.caches, strict=True):
            cache.keys.zero_()
            cache.values.zero_()  # masked values are multiplied by 0, and 0 × NaN is NaN
            attention = layer.encoder_attn
            _project(attention, attention.k_proj, states, cache.cross_keys)
            _project(attention, attention.v_proj, states, cache.cross_values)

    def compact(self, active: Sequence[int], rows: int) -> list[int]:
        """Copy active rows over others, so that the first rows hold them all.

        Args:
            active: rows whose text has not ended.
            rows: number of rows that remain.

        Returns:
            The former number of each remaining row.
        """
        former, going = list(range(rows)), set(active)
        sources = [row for row in active if row >= rows]
        targets = [row for row in range(rows) if row not in going][: len(sources)]
        for row, source in zip(targets, sources, strict=True):
            former[row] = source
        if not sources:
            return former
        tensors = [self.ids, self.ended, self.limits]
        for cache in self.caches:
            tensors += [cache.keys, cache.values, cache.cross_keys, cache.cross_values]
        moved = torch.tensor([sources, targets], dtype=torch.long, device=self.ids.device)
        for tensor in tensors:
            tensor.index_copy_(0, moved[1], tensor.index_select(0, moved[0]))
        return former


def allocate(model: Any, shape: CacheShape) -> DecodingState:
    """Allocate the memory of a batch on a model's device.

    Args:
        model: a WhisperForConditionalGeneration.
        shape: of the memory.
    """
    decoder, device = model.model.decoder, model.device
    rows, positions, tokens, biased = shape
    on_device: dict[str, Any] = {"device": device, "dtype": model.dtype}
    padded = -(-positions // ALIGNMENT) * ALIGNMENT

    def zeros(attention: Any, length: int) -> Tensor:
        return torch.zeros(rows, attention.num_heads, length, attention.head_dim, **on_device)

    caches = [
        LayerCache(
            keys=zeros(layer.self_attn, tokens),
            values=zeros(layer.self_attn, tokens),
            cross_keys=zeros(layer.encoder_attn, positions),
            cross_values=zeros(layer.encoder_attn, positions),
        )
        for layer in decoder.layers
    ]
    return DecodingState(
        shape=shape,
        caches=caches,
        ids=torch.zeros(rows, tokens, dtype=torch.long, device=device),
        ended=torch.ones(rows, dtype=torch.bool, device=device),
        limits=torch.zeros(rows, dtype=torch.long, device=device),
        position=torch.zeros(1, dtype=torch.long, device=device),
        causal_bias=torch.full((tokens, tokens), -torch.inf, **on_device).triu(1),
        cross_bias=torch.zeros(1, 1, 1, padded, **on_device)[..., :positions] if biased else None,
    )


def split_heads(attention: Any, states: Tensor) -> Tensor:
    """Split heads: (rows, tokens, d_model) → (rows, heads, tokens, head_dim)."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def attend(
    attention: Any, inputs: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """Return the output of an attention module. Shape: (rows, tokens, d_model)."""
    query = split_heads(attention, attention.q_proj(inputs))
    if bias is not None:
        bias = bias.expand(1, 1, query.shape[2], -1)
    output = nn.functional.scaled_dot_product_attention(
        query, keys, values, bias, scale=attention.scaling
    )
    attended: Tensor = attention.out_proj(output.transpose(1, 2).flatten(2))
    return attended


def _project(attention: Any, projection: Any, states: Tensor, target: Tensor) -> None:
    """Store the keys or values of a batch and of the silence states behind it.

    Args:
        attention: cross-attention of a decoder layer.
        projection: its k_proj or v_proj.
        states: encoder output. Shape: (batch, positions, d_model).
        target: shape (rows, heads, positions, head_dim).
    """
    rows, end, _ = states.shape
    target[:rows, :, :end] = split_heads(attention, projection(states))
    silence = attention.silence_behind(end)
    if silence is not None:
        start, end = end, end + silence.shape[1]
        target[:rows, :, start:end] = split_heads(attention, projection(silence))
    target[:, :, end:] = 0
