"""A Batch to texts, with the stock model's own generate."""

from collections.abc import Callable, Sequence
from copy import deepcopy
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
from eval.fallback import LONG, TEMPERATURES, Verdict, judge, seed
from eval.reference_loss import Likelihood
from eval.segments import Segment, between_times
from eval.whisper import Whisper

MORE_TOKENS = 16  # than a clip's seconds allow, for the prefix and the shortest clips


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeResult:
    """What a model made of a clip."""

    text: str
    tokens: int = 0  # of the text, without special ones
    truncated: bool = False  # it reached its most tokens, in any window, before the model ended it
    segments: tuple[Segment, ...] = ()  # where it was decoded with times, as the model said them
    likelihood: Likelihood | None = None  # of its label, where that was asked for


@torch.inference_mode()
def encode(whisper: Whisper, batch: Batch) -> Tensor | None:
    """Return what the encoder makes of clips of up to 30 s; longer ones are encoded by windows.

    What is shorter than that is encoded at its length: a model has to be trained so.

    Returns:
        (batch, positions, d_model).
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
) -> list[DecodeResult]:
    """Return what is heard in each clip. Batches hold one task; up to 30 s is one window.

    What is longer is transcribed whole, window by window, with timestamps (transformers' sequential
    algorithm, after section 3.8 of Whisper's paper): pass one clip at a time.

    Args:
        whisper: the model.
        batch: what is transcribed.
        config: how to decode.
        states: what encode() made of it.
        show_progress: called before each window of a long clip, and each clip that is decoded anew.

    Raises:
        InputError: times are asked for, and the model knows none.
    """
    device, dtype = whisper.model.device, whisper.model.dtype
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if states is None:
            features = batch.features.to(device, dtype)
            return [_long(whisper, batch, features, config, show_progress)]
        return _short(whisper, batch, states, config, show_progress)


def _short(
    whisper: Whisper,
    batch: Batch,
    states: Tensor,
    config: EvalConfig,
    show_progress: Callable[[], None],
) -> list[DecodeResult]:
    if config.timestamps and not whisper.labels().has_timestamps:
        raise InputError(
            f"eval.timestamps: {whisper.name} has no tokens of times: set eval.timestamps=false"
        )
    window = Window(whisper, batch, config, states)
    rows = window.decode(range(len(batch.ids)))
    if config.fallback:
        for number, row in enumerate(rows):
            show_progress()
            rows[number] = window.settle(number, row)
    return [window.heard(number, row) for number, row in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class Window:
    """Clips of up to 30 s, encoded; each is decoded once, or until one text is good."""

    whisper: Whisper
    batch: Batch
    config: EvalConfig
    states: Tensor  # (batch, positions, d_model)

    def decode(self, numbers: Sequence[int], temperature: float | None = None) -> list[Any]:
        """Return the ids of some clips, from the start token on; sampled at a temperature."""
        config, batch = self.config, self.batch
        most = max(self._most(number) for number in numbers)
        options = _told(self.whisper, batch, list(numbers))
        options["generation_config"] = _generation(self.whisper, config, most)
        # a window that is not full ends with its speech: what follows would be heard once more
        options |= {"return_timestamps": config.timestamps, "force_unique_generate_call": True}
        # generate repeats the states in place, once a beam
        options["encoder_outputs"] = BaseModelOutput(self.states[list(numbers)])
        rows = self.whisper.model.generate(temperature=temperature, **options)
        return [row.tolist() for row in rows]

    def settle(self, number: int, row: list[int]) -> list[int]:
        """Return a clip's ids, sampled again where Whisper would: see eval.fallback."""
        seed(self.batch.ids[number])
        for temperature in (*TEMPERATURES, None):
            verdict = self._judge(number, row)
            if verdict != Verdict.BAD or temperature is None:
                break
            (row,) = self.decode([number], temperature)
        silent = [*row[: self._prefix(row)], _id(self.whisper, END)]
        return silent if verdict == Verdict.SILENT else row

    def heard(self, number: int, row: list[int]) -> DecodeResult:
        """Cut a row of ids to what its own seconds allow, and read it."""
        end, most = _id(self.whisper, END), self._prefix(row) + self._most(number)
        kept = row[: row.index(end)] if end in row else row
        ids = kept[:most]
        return _read(self.whisper, ids, truncated=end not in row or len(kept) > most)

    def _judge(self, number: int, row: list[int]) -> Verdict:
        states, text = self.states[[number]], self.heard(number, row).text
        end = _id(self.whisper, END)
        ids = row[: row.index(end) + 1] if end in row else row
        return judge(self.whisper, states, ids, self._prefix(row), text)

    def _prefix(self, row: list[int]) -> int:
        """Return how many tokens stand before the text."""
        first, last = _id(self.whisper, END) + 1, _id(self.whisper, NO_TIMESTAMPS)
        return next((i for i, token in enumerate(row) if not first <= token <= last), len(row))

    def _most(self, number: int) -> int:
        """Return the tokens that a clip may have; nobody says more than so much in its seconds."""
        spoken = MORE_TOKENS + round(self.config.tokens_per_second * self.batch.seconds[number])
        return min(self.config.max_length, spoken)


def _long(
    whisper: Whisper,
    batch: Batch,
    features: Tensor,
    config: EvalConfig,
    show_progress: Callable[[], None],
) -> DecodeResult:
    """Return what is heard in one clip over 30 s."""
    options = _told(whisper, batch, [0])
    options["generation_config"] = _generation(whisper, config, config.max_length)
    mask = torch.ones(1, features.shape[-1], dtype=torch.long, device=features.device)
    options |= {"return_timestamps": True, "attention_mask": mask, "return_segments": True}
    if config.fallback:
        seed(batch.ids[0])
        options |= LONG
    options["monitor_progress"] = lambda _: show_progress()  # called once a window
    found = whisper.model.generate(features, **options)
    ends, segments = [], []
    for segment in found["segments"][0]:
        window = segment["result"]
        sequence = window if isinstance(window, Tensor) else window["sequences"]
        ends.append(_id(whisper, END) in sequence.tolist())
        text = _text(whisper, segment["tokens"].tolist())
        segments.append(Segment(float(segment["start"]), float(segment["end"]), text))
    heard = _read(whisper, [int(i) for i in found["sequences"][0]], truncated=not all(ends))
    return replace(heard, segments=tuple(segments))


def _told(whisper: Whisper, batch: Batch, numbers: list[int]) -> dict[str, Any]:
    """Return what generate is told of some clips; an English-only model refuses to be told."""
    options: dict[str, Any] = {"use_cache": True}
    if whisper.multilingual:
        (task,) = set(batch.tasks)  # generate takes one value, and of languages one a clip
        options |= {"language": [batch.languages[i] for i in numbers], "task": task}
    return options


def _generation(whisper: Whisper, config: EvalConfig, most: int) -> Any:
    """Return how to decode texts of at most so many tokens."""
    generation = deepcopy(whisper.model.generation_config)
    generation.max_length = most
    generation.max_new_tokens = None
    generation.num_beams = config.num_beams
    generation.do_sample = False
    generation.top_k, generation.top_p = 0, 1.0  # sampled from all tokens, as Whisper's own
    return generation


def _read(whisper: Whisper, ids: list[int], *, truncated: bool) -> DecodeResult:
    special, first = _special(whisper), _id(whisper, NO_TIMESTAMPS) + 1
    return DecodeResult(
        text=_text(whisper, ids).strip(),
        tokens=sum(i not in special for i in ids),
        truncated=truncated,
        segments=between_times(ids, special, first, partial(_text, whisper)),
    )


def _text(whisper: Whisper, ids: list[int]) -> str:
    return str(whisper.processor.decode(ids, skip_special_tokens=True))


def _special(whisper: Whisper) -> range:
    """Return the ids that are no text: of languages, tasks and times."""
    return range(_id(whisper, END), _id(whisper, NO_TIMESTAMPS) + 2 + LAST_TIME)


def _id(whisper: Whisper, token: str) -> int:
    return int(whisper.processor.tokenizer.convert_tokens_to_ids(token))
