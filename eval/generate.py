"""Decode a Batch into hypotheses: greedily with GreedyDecoder, else with transformers' generate().

generate() decodes audio over 30 s, timestamps, beams, samples (eval/fallback.py), and models whose
generation config has an option that GreedyDecoder lacks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from data.batch import Batch
from data.errors import InputError
from data.labels import END, LAST_TIME, NO_TIMESTAMPS
from data.log_mel import N_FRAMES
from eval.config import EvalConfig
from eval.fallback import (
    LONG_AUDIO_OPTIONS,
    TEMPERATURES,
    FallbackDecision,
    fallback_decision,
    seed_from_id,
)
from eval.generation_options import decodes_greedily, generate, generate_options, generation_config
from eval.greedy import GreedyDecoder
from eval.reference_loss import ReferenceLoss
from eval.segments import Segment, parse_timestamps
from eval.whisper import Whisper


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeResult:
    """The hypothesis of a clip."""

    text: str
    tokens: int = 0  # of the text, without special tokens
    truncated: bool = False  # a window reached the token limit before the end token
    segments: tuple[Segment, ...] = ()  # when decoded with timestamps, as the model predicted them
    reference_loss: ReferenceLoss | None = None  # of its label, if requested


@torch.inference_mode()
def encode(whisper: Whisper, batch: Batch) -> Tensor | None:
    """Return the encoder output of clips of up to 30 s, or None for longer audio.

    Features shorter than 3,000 frames are encoded at their length: a model must be trained so.
    generate() encodes longer audio window by window.

    Returns:
        Encoder output. Shape: (batch, positions, d_model).
    """
    if batch.features.shape[-1] > N_FRAMES:
        return None
    states: Tensor = whisper.model.model.encoder(
        batch.features.to(whisper.model.device, whisper.model.dtype)
    ).last_hidden_state
    return states


@torch.inference_mode()
def transcribe(
    whisper: Whisper,
    batch: Batch,
    config: EvalConfig,
    states: Tensor | None,
    show_progress: Callable[[], None] = lambda: None,
    greedy: GreedyDecoder | None = None,
) -> list[DecodeResult]:
    """Return the hypothesis of each clip.

    Audio over 30 s is decoded window by window, with timestamps (transformers' sequential
    algorithm, after section 3.8 of Whisper's paper): pass one such clip at a time.

    Args:
        whisper: the model.
        batch: clips of one task.
        config: how to decode.
        states: what encode() returned for the batch.
        show_progress: called before each window of a long clip, and before each fallback check.
        greedy: of the model, which keeps its memory from batch to batch; None: made here.

    Raises:
        InputError: eval.timestamps is set, and the model has no timestamp tokens.
    """
    device, dtype = whisper.model.device, whisper.model.dtype
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if states is None:
            features = batch.features.to(device, dtype)
            return [_transcribe_long(whisper, batch, features, config, show_progress)]
        window = Window(whisper, batch, config, states, greedy)
        return window.transcribe(show_progress)


@dataclass(frozen=True, slots=True)
class Window:
    """A batch of encoded clips of up to 30 s, decoded together or one by one."""

    whisper: Whisper
    batch: Batch
    config: EvalConfig
    states: Tensor  # (batch, positions, d_model)
    greedy: GreedyDecoder | None = None

    def transcribe(self, show_progress: Callable[[], None]) -> list[DecodeResult]:
        """Return the hypothesis of each clip: transcribe()."""
        if self.config.timestamps and not self.whisper.labels().has_timestamps:
            raise InputError(
                f"eval.timestamps: {self.whisper.name} has no timestamp tokens: "
                "set eval.timestamps=false"
            )
        indices = range(len(self.batch.ids))
        greedy = decodes_greedily(self.whisper, self.config)
        rows = self.decode_greedily() if greedy else self.decode(indices)
        if self.config.fallback:
            for index, ids in enumerate(rows):
                show_progress()
                rows[index] = self.apply_fallback(index, ids)
        return [self.result(index, ids) for index, ids in enumerate(rows)]

    def decode_greedily(self) -> list[list[int]]:
        """Return the token ids of all clips, from the start token on, as decode() would."""
        batch, multilingual = self.batch, self.whisper.multilingual
        decoder = self.greedy or GreedyDecoder(self.whisper)
        prefixes = [
            decoder.labels.prefix(language if multilingual else "en", task)
            for language, task in zip(batch.languages, batch.tasks, strict=True)
        ]
        limits = [self._max_tokens(index) for index in range(len(batch.ids))]
        return decoder.decode(self.states, prefixes, limits)

    def decode(self, indices: Sequence[int], temperature: float | None = None) -> list[Any]:
        """Return the token ids of some clips, from the start token on, with generate().

        Args:
            indices: of the clips in the batch.
            temperature: of sampling; None for greedy or beam search.
        """
        config, batch = self.config, self.batch
        max_tokens = max(self._max_tokens(index) for index in indices)
        options = generate_options(self.whisper, batch, list(indices))
        options["generation_config"] = generation_config(self.whisper, config, max_tokens)
        # without force_unique_generate_call, timestamps make generate() seek on in a window whose
        # last segment ends early, and transcribe its end once more
        options |= {"return_timestamps": config.timestamps, "force_unique_generate_call": True}
        # indexing copies: generate() repeats the states in place, once a beam
        options["encoder_outputs"] = BaseModelOutput(self.states[list(indices)])
        rows = generate(self.whisper.model, temperature=temperature, **options)
        return [row.tolist() for row in rows]

    def apply_fallback(self, index: int, ids: list[int]) -> list[int]:
        """Return a clip's token ids, sampled again where its hypothesis fails: eval/fallback.py."""
        seed_from_id(self.batch.ids[index])
        for temperature in (*TEMPERATURES, None):
            decision = self._decide(index, ids)
            if decision != FallbackDecision.RETRY or temperature is None:
                break
            (ids,) = self.decode([index], temperature)
        empty = [*ids[: self._prefix_length(ids)], _token_id(self.whisper, END)]
        return empty if decision == FallbackDecision.NO_SPEECH else ids

    def result(self, index: int, ids: list[int]) -> DecodeResult:
        """Cut token ids at the end token or at the clip's own limit, and decode them."""
        end = _token_id(self.whisper, END)
        limit = self._prefix_length(ids) + self._max_tokens(index)
        before_end = ids[: ids.index(end)] if end in ids else ids
        truncated = end not in ids[:limit]  # whether or not other clips were decoded for longer
        return _result(self.whisper, before_end[:limit], truncated=truncated)

    def _decide(self, index: int, ids: list[int]) -> FallbackDecision:
        states, text = self.states[[index]], self.result(index, ids).text
        end = _token_id(self.whisper, END)
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        return fallback_decision(self.whisper, states, ids, self._prefix_length(ids), text)

    def _prefix_length(self, ids: list[int]) -> int:
        """Return the number of tokens before the text: start, language, task, no timestamps."""
        first, last = _token_id(self.whisper, END) + 1, _token_id(self.whisper, NO_TIMESTAMPS)
        return next((i for i, token in enumerate(ids) if not first <= token <= last), len(ids))

    def _max_tokens(self, index: int) -> int:
        return self.config.max_tokens(self.batch.seconds[index])


def _transcribe_long(
    whisper: Whisper,
    batch: Batch,
    features: Tensor,
    config: EvalConfig,
    show_progress: Callable[[], None],
) -> DecodeResult:
    """Return the hypothesis of one clip over 30 s."""
    options = generate_options(whisper, batch, [0])
    options["generation_config"] = generation_config(whisper, config, config.max_length)
    mask = torch.ones(1, features.shape[-1], dtype=torch.long, device=features.device)
    options |= {"return_timestamps": True, "attention_mask": mask, "return_segments": True}
    if config.fallback:
        seed_from_id(batch.ids[0])
        options |= LONG_AUDIO_OPTIONS
    options["monitor_progress"] = lambda _: show_progress()  # generate() calls it once a window
    output = generate(whisper.model, input_features=features, **options)
    ended, segments = [], []
    for segment in output["segments"][0]:
        window = segment["result"]
        sequence = window if isinstance(window, Tensor) else window["sequences"]
        ended.append(_token_id(whisper, END) in sequence.tolist())
        text = _text(whisper, segment["tokens"].tolist())
        segments.append(Segment(float(segment["start"]), float(segment["end"]), text))
    ids = [int(i) for i in output["sequences"][0]]
    return replace(_result(whisper, ids, truncated=not all(ended)), segments=tuple(segments))


def _result(whisper: Whisper, ids: list[int], *, truncated: bool) -> DecodeResult:
    special, first_timestamp = _special_ids(whisper), _token_id(whisper, NO_TIMESTAMPS) + 1
    return DecodeResult(
        text=_text(whisper, ids).strip(),
        tokens=sum(i not in special for i in ids),
        truncated=truncated,
        segments=parse_timestamps(ids, special, first_timestamp, partial(_text, whisper)),
    )


def _text(whisper: Whisper, ids: list[int]) -> str:
    return str(whisper.processor.decode(ids, skip_special_tokens=True))


def _special_ids(whisper: Whisper) -> range:
    """Return the ids of special tokens: end, start, languages, tasks and timestamps."""
    return range(_token_id(whisper, END), _token_id(whisper, NO_TIMESTAMPS) + 2 + LAST_TIME)


def _token_id(whisper: Whisper, token: str) -> int:
    return int(whisper.processor.tokenizer.convert_tokens_to_ids(token))
