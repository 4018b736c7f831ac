"""Select the utterances to train on: count tokens, measure durations and apply all filters."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from data.config import DataConfig
from data.corpora.common_voice import contains_held_out_speakers
from data.errors import InputError
from data.labels import TEXTS_PER_CALL, LabelEncoder
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


def screen_training_split(
    rows: list[Utterance],
    config: DataConfig,
    labels: LabelEncoder,
    held_out: Sequence[Utterance],
    measure: Measure,
) -> Screened:
    """Return the utterances to train on, and the dropped ones.

    Args:
        rows: of the training split, with tokens counted.
        config: limits and options.
        labels: counts tokens.
        held_out: utterances of dev and test.
        measure: measures the clips that earlier filters kept.

    Raises:
        InputError: clips are missing, or the model has no timestamp tokens.
    """
    split = config.train_split
    # rebinding frees each list: of two million rows only one is kept at a time
    rows, faults = screen_faults(rows, split)
    rows, repeats = screen_repeats(rows, split)
    strict = contains_held_out_speakers(split)
    rows, leaks = screen_leaks(rows, split, held_out, strict=strict)
    rows, broken = screen_audio(rows, split, measure(rows))
    refuse_missing(broken, config)
    rows, unfit = screen_training(rows, split, config, labels.max_tokens)
    if config.timestamp_probability and not labels.has_timestamps:
        raise InputError(
            f"data.timestamp_probability is {config.timestamp_probability:g}, but the model's "
            "vocabulary has no timestamp tokens: use one of OpenAI's models, or set it to 0"
        )
    add_prompts(rows, labels)
    return rows, [*faults, *repeats, *leaks, *broken, *unfit]


def with_model_language(config: DataConfig, labels: LabelEncoder) -> DataConfig:
    """Return the config with data.language set to en if the model is English-only."""
    if labels.multilingual or config.language:
        return config
    return replace(config, language=("en",))


def count_tokens(
    rows: Iterable[Utterance], config: DataConfig, labels: LabelEncoder, split: str
) -> list[Utterance]:
    """Set the tokens of rows, in place, and return them as a list; check their languages.

    A thread counts the tokens of one part while the next part is read. It is at most one part
    behind, since this thread then waits for it: while this one reads, it hardly gets the GIL.

    Raises:
        InputError: a row has no language, or the model does not support it.
    """
    rows, counted = iter(rows), list[Utterance]()
    counting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="tokens") as thread:
        while part := list(islice(rows, TEXTS_PER_CALL)):
            _refuse_unknown({u.language for u in part}, config, labels, split)
            counted += part
            counting.append(thread.submit(_set_token_counts, part, labels))
            if len(counting) > 1:
                counting.popleft().result()
    for last in counting:
        last.result()
    return counted


def _set_token_counts(part: Sequence[Utterance], labels: LabelEncoder) -> None:
    counts = labels.count_tokens([u.text for u in part], [u.language or "" for u in part])
    for u, tokens in zip(part, counts, strict=True):
        u.tokens = tokens


def _refuse_unknown(
    languages: Iterable[str | None], config: DataConfig, labels: LabelEncoder, split: str
) -> None:
    for language in languages:
        if language is None:
            raise InputError(
                f"{', '.join(config.corpus)}: split {split!r} does not name its language: "
                "set data.language"
            )
        labels.prefix(language)  # raises if the model does not support it


def refuse_empty(
    kept: Sequence[Utterance], split: str, drops: Sequence[Drop], config: DataConfig
) -> None:
    """Raise an error if no utterances of a split are left.

    Raises:
        InputError: there are none.
    """
    if not kept:
        reasons = count_reasons(drops).get(split, {})
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise InputError(
            f"{', '.join(config.corpus)}: all clips of split {split!r} were dropped: {counts}"
        )
