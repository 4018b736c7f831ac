"""Why an utterance is dropped: every drop has a reason, and is counted."""

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
from data.worker_pool import HANGS, KILLS

BROKEN = {KILLS, HANGS, "missing", "unreadable", "truncated", "not a number", "silent", "too much"}
BROKEN |= {"after the end"}
SPECIAL = re.compile(r"<\|[^|>]*\|>")  # would be read as one of Whisper's own tokens

Screened = tuple[list[Utterance], list[Drop]]  # what is kept, what is not


def screen_faults(utterances: Sequence[Utterance], split: str) -> Screened:
    """Drop what its reader found a fault in: only the reader sees, say, subtitles that overlap."""
    drops = [drop(u, split, u.fault, u.text[:80]) for u in utterances if u.fault]
    return [u for u in utterances if not u.fault], drops


def screen_audio(utterances: Iterable[Utterance], split: str, found: Measurements) -> Screened:
    """Fill in lengths; drop what is missing, cannot be read, or is shorter than it says."""
    kept, drops = [], []
    for utterance in utterances:
        measured = found.get(utterance.audio)
        if measured is None:  # its length was known, and nobody looked
            kept.append(utterance)
        elif problem := _audio_problem(
            utterance, measured.seconds, measured.reason, measured.detail
        ):
            drops.append(drop(utterance, split, *problem))
        else:
            end = measured.seconds if utterance.end is None else utterance.end
            kept.append(replace(utterance, seconds=round(end - utterance.start, 6)))
    return kept, drops


def screen_training(
    utterances: Iterable[Utterance], split: str, config: DataConfig, max_tokens: int
) -> Screened:
    """Drop what a Whisper window or its decoder cannot hold; nothing is ever cut to fit."""
    kept, drops = [], []
    for utterance in utterances:
        problem = _training_problem(utterance, config, max_tokens)
        if problem:
            drops.append(drop(utterance, split, *problem))
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
    """Drop clips that dev or test hold: nothing is both trained on and scored.

    Args:
        utterances: to train on.
        split: their name.
        held_out: dev and test.
        strict: drop the sentences and speakers of dev and test too: validated.tsv contains them.
    """
    clips = {u.id for u in held_out}
    texts = {u.text for u in held_out}
    speakers = {u.speaker for u in held_out if u.speaker}
    kept, drops = [], []
    for u in utterances:
        held = (u.id in clips, strict and u.text in texts, strict and u.speaker in speakers)
        what = ("clip", "sentence", "speaker")
        if any(held):
            drops.append(drop(u, split, f"{what[held.index(True)]} of dev or test"))
        else:
            kept.append(u)
    return kept, drops


def screen_repeats(utterances: Iterable[Utterance], split: str) -> Screened:
    """Drop rows whose id came before: joined splits overlap."""
    kept: dict[str, Utterance] = {}
    drops = []
    for u in utterances:
        if u.id in kept:
            drops.append(drop(u, split, "listed twice"))
        else:
            kept[u.id] = u
    return list(kept.values()), drops


def refuse_missing(drops: Sequence[Drop], config: DataConfig) -> None:
    """Stop where rows name audio that is not there, unless the user said to go on.

    Raises:
        InputError: clips are missing and data.missing_audio is error.
    """
    missing = [drop for drop in drops if drop.reason == "missing"]
    if missing and config.missing_audio == "error":
        raise InputError(
            f"{missing[0].audio}: no such file, though {missing[0].split} lists it "
            f"({len(missing)} such rows in all): unpack the corpus again, or go on without them "
            "with data.missing_audio=drop"
        )


def is_broken(drop: Drop, config: DataConfig) -> bool:
    """Tell whether a clip of the training split was dropped for a fault that nobody accepted."""
    accepted = {"missing"} if config.missing_audio == "drop" else set()
    return drop.split == config.train_split and drop.reason in BROKEN - accepted


def accepted_broken(rows: int, config: DataConfig) -> float:
    """Return how many of so many clips may be broken."""
    return max(1.0, config.max_broken_share * rows) if config.max_broken_share else 0.0


def refuse_broken(drops: Iterable[Drop], rows: int, config: DataConfig, named_in: Path) -> None:
    """Stop where more clips of the training split are broken than the user accepts.

    One is always accepted, unless data.max_broken_share is 0: of 50 clips it would be 2 %. What is
    left out as a matter of policy, such as clips that are too long, is not broken, and neither is
    what data.missing_audio=drop accepts.

    Args:
        drops: of all splits, so far; a clip may be in it once an epoch.
        rows: of the training split, whether dropped or kept.
        config: says how many are accepted.
        named_in: the file that names the drops.

    Raises:
        InputError: there are more.
    """
    broken = {each.id: each for each in drops if is_broken(each, config)}
    if len(broken) <= accepted_broken(rows, config):
        return
    ((reason, count),) = Counter(each.reason for each in broken.values()).most_common(1)
    example = next(each for each in broken.values() if each.reason == reason)
    share = math.ceil(100 * len(broken) / rows) / 100
    raise InputError(
        f"{len(broken):,} of {rows:,} clips of {config.train_split} are broken, most of them "
        f"({count:,}) {reason}, such as {example.audio}; all are named in {named_in}: mend them, "
        f"or go on without them with data.max_broken_share={share:g}"
    )


def drop(utterance: Utterance, split: str, reason: str, detail: str = "") -> Drop:
    """Make the record of a drop."""
    return Drop(split=split, id=utterance.id, audio=utterance.audio, reason=reason, detail=detail)


def count_reasons(drops: Iterable[Drop]) -> dict[str, dict[str, int]]:
    """Return how many were dropped: by split, by reason."""
    counts: dict[str, Counter[str]] = {}
    for each in drops:
        counts.setdefault(each.split, Counter())[each.reason] += 1
    return {split: dict(counter.most_common()) for split, counter in counts.items()}


def _audio_problem(
    utterance: Utterance, seconds: float, reason: str, detail: str
) -> tuple[str, str] | None:
    if reason:
        return reason, detail
    if utterance.end is None and seconds - utterance.start > MAX_SECONDS:
        return "too long", f"{seconds:.0f} s; {MAX_SECONDS} s are held whole: name slices of it"
    if utterance.start > 0 and utterance.start >= seconds:
        return "after the end", f"begins at {utterance.start:.2f} s of {seconds:.2f} s"
    declared = utterance.seconds if utterance.end is None else utterance.end - utterance.start
    left = max(0.0, seconds - utterance.start)  # in the file, from the slice's start on
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
        return "label too long", f"{u.tokens} tokens; the decoder holds {max_tokens}"
    return None
