"""What of a split is trained on: one row after another is settled, measured and screened."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from data.config import DataConfig
from data.corpora.common_voice import holds_speakers_of_all
from data.errors import InputError
from data.labels import TOKENIZED, LabelEncoder
from data.screening.durations import Measurements
from data.screening.filters import (
    Screened,
    count_reasons,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_leaks,
    screen_repeats,
    screen_training,
)
from data.screening.prompts import add_prompts
from data.utterance import Drop, Utterance

Measure = Callable[[Sequence[Utterance]], Measurements]


def select(
    rows: list[Utterance],
    config: DataConfig,
    encoder: LabelEncoder,
    held_out: Sequence[Utterance],
    measure: Measure,
) -> Screened:
    """Return what is trained on, and what is not.

    Args:
        rows: of the training split, settled.
        config: says what is left out.
        encoder: counts tokens, knows times.
        held_out: dev and test.
        measure: finds lengths, and what is broken; asked for what nothing else speaks against.

    Raises:
        InputError: clips are missing, or the model cannot learn times.
    """
    split = config.train_split
    # one name for all: of two million rows only one list at a time is to be held
    rows, faults = screen_faults(rows, split)
    rows, repeats = screen_repeats(rows, split)
    strict = holds_speakers_of_all(split)
    rows, leaks = screen_leaks(rows, split, held_out, strict=strict)
    rows, broken = screen_audio(rows, split, measure(rows))
    refuse_missing(broken, config)
    rows, unfit = screen_training(rows, split, config, encoder.max_tokens)
    if config.timestamp_probability and not encoder.knows_times:
        raise InputError(
            f"data.timestamp_probability is {config.timestamp_probability:g}, but the model's "
            "vocabulary has no times: "
            "take one of OpenAI's, or set it to 0"
        )
    add_prompts(rows, encoder)
    return rows, [*faults, *repeats, *leaks, *broken, *unfit]


def spoken(config: DataConfig, encoder: LabelEncoder) -> DataConfig:
    """Return the knobs with the language of a model that knows no other."""
    if encoder.multilingual or config.language:
        return config
    return replace(config, language=("en",))


def settle(
    rows: Iterable[Utterance], config: DataConfig, encoder: LabelEncoder, split: str
) -> list[Utterance]:
    """Return rows with their tokens counted, in place; the model knows their languages.

    A thread counts those of one part while the next is read. It is never further behind: Python
    hardly lets it begin while this one reads, and at once where this one waits.

    Raises:
        InputError: a row's language is not said, or the model does not know it.
    """
    rows, settled = iter(rows), list[Utterance]()
    counting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="tokens") as thread:
        while part := list(islice(rows, TOKENIZED)):
            _refuse_unknown({u.language for u in part}, config, encoder, split)
            settled += part
            counting.append(thread.submit(_count_tokens, part, encoder))
            if len(counting) > 1:
                counting.popleft().result()
    for last in counting:
        last.result()
    return settled


def _count_tokens(part: Sequence[Utterance], encoder: LabelEncoder) -> None:
    counts = encoder.count([u.text for u in part], [u.language or "" for u in part])
    for u, tokens in zip(part, counts, strict=True):
        u.tokens = tokens


def _refuse_unknown(
    languages: Iterable[str | None], config: DataConfig, encoder: LabelEncoder, split: str
) -> None:
    for language in languages:
        if language is None:
            raise InputError(
                f"{', '.join(config.corpus)}: split {split!r} does not say its language: "
                "set data.language"
            )
        encoder.prefix(language)  # raises where the model does not know it


def refuse_empty(
    kept: Sequence[Utterance], split: str, drops: Sequence[Drop], config: DataConfig
) -> None:
    """Stop where nothing is left of a split.

    Raises:
        InputError: it is so.
    """
    if not kept:
        reasons = count_reasons(drops).get(split, {})
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise InputError(
            f"{', '.join(config.corpus)}: split {split!r} has nothing left after: {told}"
        )
