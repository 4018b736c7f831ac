"""Filters that drop utterances, each with a reason that is counted."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data.audio.decode import MAX_SECONDS, AudioError, check_length
from data.config import DataConfig
from data.errors import InputError
from data.screening.durations import Measurements
from data.utterance import Drop, Utterance
from data.worker_crashes import HANGS, KILLS

BROKEN = {KILLS, HANGS, "missing", "unreadable", "truncated", "not a number", "silent", "too much"}
BROKEN |= {"after the end"}
SPECIAL = re.compile(r"<\|[^|>]*\|>")  # would be tokenized as a special token

Screened = tuple[list[Utterance], list[Drop]]  # kept and dropped


def screen_faults(utterances: Sequence[Utterance], split: str) -> Screened:
    """Drop utterances with a fault, which only a reader can find, such as overlapping subtitles."""
    drops = [make_drop(u, split, u.fault, u.text[:80]) for u in utterances if u.fault]
    return [u for u in utterances if not u.fault], drops


def screen_audio(
    utterances: Iterable[Utterance], split: str, measurements: Measurements
) -> Screened:
    """Set measured durations; drop missing, unreadable and truncated audio."""
    kept, drops = [], []
    for utterance in utterances:
        measured = measurements.get(utterance.audio)
        if measured is None:  # its duration was known, so it was not measured
            kept.append(utterance)
        elif problem := _audio_problem(
            utterance, measured.seconds, measured.reason, measured.detail
        ):
            drops.append(make_drop(utterance, split, *problem))
        else:
            end = measured.seconds if utterance.end is None else utterance.end
            kept.append(replace(utterance, seconds=round(end - utterance.start, 6)))
    return kept, drops


def screen_training(
    utterances: Iterable[Utterance], split: str, config: DataConfig, max_tokens: int
) -> Screened:
    """Drop clips that exceed Whisper's window or decoder, or have unusable text; never truncate."""
    kept, drops = [], []
    for utterance in utterances:
        problem = _training_problem(utterance, config, max_tokens)
        if problem:
            drops.append(make_drop(utterance, split, *problem))
        else:
            kept.append(utterance)
    return kept, drops


def screen_leaks(
    utterances: Iterable[Utterance],
    split: str,
    held_out: Sequence[Utterance],
    *,
    strict: bool = True,
) -> Screened:
    """Drop training clips that are in dev or test.

    Args:
        utterances: of the training split.
        split: its name.
        held_out: utterances of dev and test.
        strict: also drop sentences and speakers of dev and test, which validated.tsv contains.
    """
    clips = {u.id for u in held_out}
    texts = {u.text for u in held_out}
    speakers = {u.speaker for u in held_out if u.speaker}
    kept, drops = [], []
    for u in utterances:
        leaks = (u.id in clips, strict and u.text in texts, strict and u.speaker in speakers)
        kinds = ("clip", "sentence", "speaker")
        if any(leaks):
            drops.append(make_drop(u, split, f"{kinds[leaks.index(True)]} of dev or test"))
        else:
            kept.append(u)
    return kept, drops


def screen_repeats(utterances: Iterable[Utterance], split: str) -> Screened:
    """Drop rows with an id that occurred before, since joined splits may overlap."""
    kept: dict[str, Utterance] = {}
    drops = []
    for u in utterances:
        if u.id in kept:
            drops.append(make_drop(u, split, "listed twice"))
        else:
            kept[u.id] = u
    return list(kept.values()), drops


def refuse_missing(drops: Sequence[Drop], config: DataConfig) -> None:
    """Raise an error if audio files are missing, unless data.missing_audio is drop.

    Raises:
        InputError: clips are missing and data.missing_audio is error.
    """
    missing = [make_drop for make_drop in drops if make_drop.reason == "missing"]
    if missing and config.missing_audio == "error":
        raise InputError(
            f"{missing[0].audio}: no such file, though {missing[0].split} lists it "
            f"({len(missing)} such rows in all): unpack the corpus again, or continue without them "
            "with data.missing_audio=drop"
        )


def is_broken(drop: Drop, config: DataConfig) -> bool:
    """Return whether a drop is of a broken training clip, which counts for max_broken_share."""
    accepted = {"missing"} if config.missing_audio == "drop" else set()
    return drop.split == config.train_split and drop.reason in BROKEN - accepted


def max_broken_clips(rows: int, config: DataConfig) -> float:
    """Return how many of `rows` clips may be broken."""
    return max(1.0, config.max_broken_share * rows) if config.max_broken_share else 0.0


def refuse_broken(drops: Iterable[Drop], rows: int, config: DataConfig, named_in: Path) -> None:
    """Raise an error if more training clips are broken than data.max_broken_share allows.

    One is always allowed, unless data.max_broken_share is 0: of 50 clips it would be 2 %. Clips
    that are left out on purpose, such as too long ones, are not broken; neither are missing ones
    with data.missing_audio=drop.

    Args:
        drops: of all splits so far; a clip may occur once per epoch.
        rows: number of clips of the training split, dropped or kept.
        config: has data.max_broken_share.
        named_in: the file that lists the drops.

    Raises:
        InputError: there are more.
    """
    broken = {drop.id: drop for drop in drops if is_broken(drop, config)}
    if len(broken) <= max_broken_clips(rows, config):
        return
    ((reason, count),) = Counter(drop.reason for drop in broken.values()).most_common(1)
    example = next(drop for drop in broken.values() if drop.reason == reason)
    share = math.ceil(100 * len(broken) / rows) / 100
    raise InputError(
        f"{len(broken):,} of {rows:,} clips of {config.train_split} are broken, most of them "
        f"({count:,}) {reason}, such as {example.audio}; all are listed in {named_in}: repair "
        f"them, or continue without them with data.max_broken_share={share:g}"
    )


def make_drop(utterance: Utterance, split: str, reason: str, detail: str = "") -> Drop:
    """Return the Drop of an utterance."""
    return Drop(split=split, id=utterance.id, audio=utterance.audio, reason=reason, detail=detail)


def count_reasons(drops: Iterable[Drop]) -> dict[str, dict[str, int]]:
    """Return the number of drops by split and reason."""
    counts: dict[str, Counter[str]] = {}
    for drop in drops:
        counts.setdefault(drop.split, Counter())[drop.reason] += 1
    return {split: dict(counter.most_common()) for split, counter in counts.items()}


def _audio_problem(
    utterance: Utterance, seconds: float, reason: str, detail: str
) -> tuple[str, str] | None:
    if reason:
        return reason, detail
    if utterance.end is None and seconds - utterance.start > MAX_SECONDS:
        return "too long", f"{seconds:.0f} s; the limit is {MAX_SECONDS} s: list slices of it"
    if utterance.start > 0 and utterance.start >= seconds:
        return "after the end", f"begins at {utterance.start:.2f} s of {seconds:.2f} s"
    declared = utterance.seconds if utterance.end is None else utterance.end - utterance.start
    left = max(0.0, seconds - utterance.start)  # in the file, after the slice's start
    try:
        check_length(left if utterance.end is None else min(left, declared), declared)
    except AudioError as error:
        return error.reason, error.detail
    return None


def _training_problem(u: Utterance, config: DataConfig, max_tokens: int) -> tuple[str, str] | None:
    if not u.text:
        return "empty text", ""
    if SPECIAL.search(u.text):
        return "special token in text", u.text[:80]
    if "\N{REPLACEMENT CHARACTER}" in u.text or "\0" in u.text:
        return "damaged text", u.text[:80]
    if not any(unicodedata.category(character)[0] in "LMN" for character in u.text):
        return "no words in text", u.text[:80]
    if u.seconds < config.min_seconds:
        return "too short", f"{u.seconds:.2f} s; data.min_seconds is {config.min_seconds:g}"
    if u.seconds >= config.max_seconds:
        return "too long", f"{u.seconds:.2f} s; data.max_seconds is {config.max_seconds:g}"
    if u.tokens > max_tokens:
        return "label too long", f"{u.tokens} tokens; the decoder's limit is {max_tokens}"
    return None
