"""Greedy decoding of a batch: each token is a step of one shape, which a GPU replays as a graph.

transformers' generate() grows its cache by a token at each step, so that no step has the shape of
the step before, and it decodes all clips until the longest text ends. Here the cache has a fixed
size, and clips whose text has ended leave the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.device import capture_graph
from eval.static_cache import CacheShape, DecodingState, allocate, attend, split_heads
from eval.whisper import Whisper

START_LENGTH = 32  # tokens of the cache that are attended to at first; doubled for longer texts
CHECK_EVERY = 8  # tokens between checks on a GPU, which then waits, for texts that have ended


class GreedyDecoder:
    """Decodes batches with one model; later batches use its memory and its CUDA graphs again.

    The model's weights may change in place between batches.
    """

    def __init__(self, whisper: Whisper, *, graphs: bool | None = None) -> None:
        """Read which tokens the model suppresses.

        Args:
            whisper: the model.
            graphs: whether to capture CUDA graphs, with sizes that are powers of two, so that few
                graphs suffice. None: on a GPU.
        """
        model, config = whisper.model, whisper.model.generation_config
        self.labels, self._model = whisper.labels(), model
        self._few_sizes = model.device.type == "cuda" if graphs is None else graphs
        none = torch.zeros(model.config.vocab_size, device=model.device, dtype=torch.bool)
        self._suppressed = _suppress(none, getattr(config, "suppress_tokens", None))
        first = getattr(config, "begin_suppress_tokens", None)
        self._suppressed_first = _suppress(self._suppressed, first)
        self.free()

    def free(self) -> None:
        """Free the memory of the last batch and the graphs. The next batch allocates its own."""
        self._state: DecodingState | None = None
        self._pool: Any = None  # memory that all graphs share
        self._capture_failed = False  # smaller batches may leave memory for graphs

    def decode(
        self, states: Tensor, prefixes: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> list[list[int]]:
        """Return the token ids of each clip, from the start token on.

        A row is cut at its limit. Behind the end token it is filled with end tokens.

        Args:
            states: encoder output. Shape: (batch, positions, d_model).
            prefixes: the tokens before each text, the same number for all clips.
            limits: number of tokens of each text at most, with its end token.
        """
        model, written = self._model, len(prefixes[0])
        totals = [min(written + n, model.config.max_target_positions) for n in limits]
        state = self._prepare(states, max(totals))
        state.fill(model.model.decoder.layers, states, prefixes, totals)
        rows = self._size(len(states))
        clips = list(range(rows))  # the clip of each row
        found: dict[int, list[int]] = {}
        position = torch.arange(written, device=states.device)
        self._step(state, rows, self._length(written), position, self._suppressed_first)
        written += 1
        while True:
            ended = state.ended[:rows].tolist()
            active = [row for row in range(rows) if not ended[row]]
            left = max((totals[clips[row]] for row in active), default=written) - written
            if self._size(len(active)) < rows:
                ids = state.ids[:rows, :written].tolist()
                found |= {clips[row]: ids[row] for row in range(rows) if ended[row]}
                if not active:
                    return [found[clip][:total] for clip, total in enumerate(totals)]
                rows = self._size(len(active))
                clips = [clips[row] for row in state.compact(active, rows)]
            for _ in range(min(left, CHECK_EVERY if self._few_sizes else 1)):
                self._advance(state, rows, self._length(written))
                written += 1

    def _size(self, count: int) -> int:
        """Return the number of rows or positions to allocate: on a GPU the next power of two."""
        return 1 << (count - 1).bit_length() if self._few_sizes and count else count

    def _length(self, tokens: int) -> int:
        """Return the length of the cache that holds so many tokens."""
        length = max(START_LENGTH, 1 << (tokens - 1).bit_length())
        return min(length, int(self._model.config.max_target_positions))

    def cache_shape(self, rows: int, positions: int, tokens: int) -> CacheShape:
        """Return the size of a batch's memory.

        Args:
            rows: clips.
            positions: of the encoder output of each.
            tokens: of the longest text, with its prefix.
        """
        layers, config = self._model.model.decoder.layers, self._model.config
        silence = layers[0].encoder_attn.silence_behind(positions)
        size = self._size(positions if silence is None else positions + silence.shape[1])
        size = min(size, config.max_source_positions)
        return CacheShape(self._size(rows), size, self._length(tokens), size > positions)

    def _prepare(self, states: Tensor, tokens: int) -> DecodingState:
        """Return memory for a batch: that of the batch before, if it is large enough."""
        shape = self.cache_shape(len(states), states.shape[1], tokens)
        if self._state is None or not self._state.fits(shape):
            self._state = self._pool = None  # frees memory first; a pool without graphs is unusable
            self._state = allocate(self._model, shape)
        return self._state

    def _advance(self, state: DecodingState, rows: int, length: int) -> None:
        """Decode a token of each row. The first step of a shape runs eagerly, as CUDA graphs need.

        Prints a warning if a graph cannot be captured; later steps then run eagerly.
        """
        graph, shape = None, (rows, length)
        if self._few_sizes and not self._capture_failed:
            if state.graphs.get(shape, False) is None:
                state.graphs[shape] = self._capture(state, rows, length)
            graph = state.graphs.setdefault(shape, None)
        if graph is None:
            self._step(state, rows, length, state.position, self._suppressed)
        else:
            graph.replay()

    def _capture(self, state: DecodingState, rows: int, length: int) -> Any:
        """Return a CUDA graph of a step, or None if capturing fails."""
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            return capture_graph(
                lambda: self._step(state, rows, length, state.position, self._suppressed),
                self._pool,
            )
        except (RuntimeError, AssertionError) as error:
            self._capture_failed = True
            reason = str(error).strip().split("\n")[0]
            print(f"warning: decoding runs without CUDA graphs, more slowly ({reason})")
            return None

    def _step(
        self, state: DecodingState, rows: int, length: int, position: Tensor, suppressed: Tensor
    ) -> None:
        """Compute the token after the given positions of each row, and store it.

        Args:
            state: the batch.
            rows: how many of its rows.
            length: of the cache that is attended to.
            position: of the tokens that are not in the cache yet. Shape: (tokens,).
            suppressed: which tokens are never decoded. Shape: (vocabulary,), bool.
        """
        end = self.labels.end_id
        logits = self._logits(state, rows, length, position).masked_fill(suppressed, -torch.inf)
        tokens = logits.argmax(-1).masked_fill(state.ended[:rows], end)
        state.position.copy_(position[-1:] + 1)
        state.ids[:rows].index_copy_(1, state.position, tokens[:, None])
        last = state.limits[:rows] <= state.position + 1
        state.ended[:rows].logical_or_((tokens == end) | last)

    def _logits(self, state: DecodingState, rows: int, length: int, position: Tensor) -> Tensor:
        """Run the decoder on the tokens at the given positions. Shape: (rows, vocabulary)."""
        decoder = self._model.model.decoder
        tokens = state.ids[:rows].index_select(1, position)
        causal_bias = state.causal_bias.index_select(0, position)[:, :length]
        hidden = decoder.embed_tokens(tokens)
        hidden = hidden + decoder.embed_positions.weight.index_select(0, position)
        for layer, cache in zip(decoder.layers, state.caches, strict=True):
            attention, inputs = layer.self_attn, layer.self_attn_layer_norm(hidden)
            keys, values = cache.keys[:rows, :, :length], cache.values[:rows, :, :length]
            keys.index_copy_(2, position, split_heads(attention, attention.k_proj(inputs)))
            values.index_copy_(2, position, split_heads(attention, attention.v_proj(inputs)))
            hidden = hidden + attend(attention, inputs, keys, values, causal_bias)
            attention, inputs = layer.encoder_attn, layer.encoder_attn_layer_norm(hidden)
            keys, values = cache.cross_keys[:rows], cache.cross_values[:rows]
            hidden = hidden + attend(attention, inputs, keys, values, state.cross_bias)
            inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            hidden = hidden + layer.fc2(inner)
        logits: Tensor = self._model.proj_out(decoder.layer_norm(hidden[:, -1]))
        return logits


def _suppress(mask: Tensor, tokens: Sequence[int] | None) -> Tensor:
    """Return a mask with some more tokens; those beyond the vocabulary are ignored."""
    mask = mask.clone()
    mask[[token for token in tokens or () if 0 <= token < len(mask)]] = True
    return mask
