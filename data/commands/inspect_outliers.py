"""Find suspicious clips by comparison with the other clips of their language."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.commands.inspect_columns import ColumnStatistics
from data.writing_systems import HAN, SCRIPTS

# The duration of a text is about log-normal around a line: a pause, plus a constant per letter. So
# 1 clip in 16,000 is beyond 4 robust standard deviations, estimated separately for each side. For
# one careful voice the deviation is so small that the factor of 2 is the limit.
DEVIATIONS = 4.0
FACTOR = 2.0
TO_DEVIATION = 1.4826  # standard deviation / median absolute deviation, if normal
MIN_CLIPS = 30  # of a language, to estimate its rate of speech
RARE = 0.05  # share of a language's letters below which a script is foreign to it: the kanji of
# Japanese and the English of code-switched Mandarin have more

Mask = NDArray[np.bool_]  # of clips


class SpeakingRate(NamedTuple):
    """The usual duration of a text in a language, and when it is suspicious."""

    language: str
    unit: str  # letters or tokens
    pause: float  # constant part of the duration, in seconds
    per_unit: float  # seconds per letter or token
    short: float  # ratio to the usual duration: clips below have too much text
    long: float  # ratio to the usual duration: clips above have too little text


class Suspicion(NamedTuple):
    """A suspicious clip, and why."""

    clip: int  # its index in the columns
    reason: str  # one of a fixed set, so that they can be counted
    detail: str


def speaking_rates(columns: ColumnStatistics) -> list[SpeakingRate]:
    """Return the speaking rate of each language with at least MIN_CLIPS clips."""
    rates = []
    for language in columns.names("language"):
        unit, lengths = _text_lengths(columns)
        of_language = columns.where("language", language) & (lengths > 0)
        if of_language.sum() < MIN_CLIPS:
            continue
        seconds, lengths = columns.numbers("seconds")[of_language], lengths[of_language]
        pause, per_unit = _fit_line(lengths, seconds)
        ratio = seconds / (pause + per_unit * lengths)
        median = float(np.median(ratio))
        short = median / _ratio_limit(median / ratio[ratio <= median])
        long = median * _ratio_limit(ratio[ratio >= median] / median)
        rates.append(SpeakingRate(language, unit, pause, per_unit, short, long))
    return rates


def find_suspicious(
    columns: ColumnStatistics, rates: list[SpeakingRate], characters: Mapping[str, Counter[str]]
) -> Iterator[Suspicion]:
    """Yield suspicious clips, once per reason.

    Args:
        columns: the clips.
        rates: as returned by speaking_rates().
        characters: their counts, by language.
    """
    for rate in rates:
        yield from _unusual_rates(columns, rate)
    for language in columns.names("language"):
        of_language = columns.where("language", language)
        for script in _foreign_scripts(columns, of_language, characters[language]):
            for clip in _indices(of_language & columns.where("script", script)):
                yield Suspicion(clip, "another script", script)
    for clip in _indices(columns.numbers("letters") == 0):
        yield Suspicion(clip, "no words", "")
    for clip in _indices(columns.numbers("damaged") == 1):
        yield Suspicion(clip, "damaged text", "")


def _unusual_rates(columns: ColumnStatistics, rate: SpeakingRate) -> Iterator[Suspicion]:
    unit, lengths = _text_lengths(columns)
    of_language = columns.where("language", rate.language) & (lengths > 0)
    seconds, expected = columns.numbers("seconds"), rate.pause + rate.per_unit * lengths
    reasons = {
        "too much text": of_language & (seconds < rate.short * expected),
        "too little text": of_language & (seconds > rate.long * expected),
    }
    for reason, mask in reasons.items():
        for clip in _indices(mask):
            detail = (
                f"{lengths[clip]} {unit} in {seconds[clip]:.2f} s; {expected[clip]:.2f} s are usual"
            )
            yield Suspicion(clip, reason, detail)


def _text_lengths(columns: ColumnStatistics) -> tuple[str, NDArray[np.int32]]:
    """Return the unit, and each clip's text length in it; 0 without text or duration."""
    unit = "tokens" if columns.numbers("tokens").any() else "letters"
    known = (columns.numbers("seconds") > 0) & (columns.numbers("letters") > 0)
    return unit, np.where(known, columns.numbers(unit), 0)


def _fit_line(lengths: NDArray[np.int32], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Return pause and seconds per unit of Tukey's resistant line, by medians of the outer thirds.

    The pause is 0 if the texts are too similar in length to estimate it.
    """
    short, long = np.quantile(lengths, (1 / 3, 2 / 3))
    few, many = lengths <= short, lengths >= long
    run = np.median(lengths[many]) - np.median(lengths[few])
    per_unit = (np.median(seconds[many]) - np.median(seconds[few])) / max(1.0, float(run))
    pause = float(np.median(seconds - per_unit * lengths))
    if run > 0 and per_unit > 0 and pause >= 0:
        return pause, float(per_unit)
    return 0.0, float(np.median(seconds / lengths))


def _ratio_limit(ratios: NDArray[np.float64]) -> float:
    """Return the ratio above which a clip is suspicious, from the ratios of one side."""
    return max(FACTOR, float(np.median(ratios)) ** (DEVIATIONS * TO_DEVIATION))


def _foreign_scripts(
    columns: ColumnStatistics, of_language: Mask, characters: Counter[str]
) -> list[str]:
    """Return the scripts of a language's clips that are foreign to it.

    Scripts are weighted by letters, since a Japanese clip may be all kanji; kinds of Han by clips.
    """
    letters: Counter[str] = Counter()
    for character, count in characters.items():
        letters[SCRIPTS[character]] += count
    del letters[""]
    clips = columns.count("script", of_language)
    kinds = {kind: clips.get(kind, 0) for kind in HAN.values()}
    foreign_scripts = {s for s in letters if letters[s] < RARE * letters.total()}
    foreign_scripts |= {kind for kind in kinds if kinds[kind] < RARE * sum(kinds.values())}
    if "Han" in foreign_scripts:
        foreign_scripts |= {script for script in clips if script.startswith("Han, ")}
    return sorted(foreign_scripts & clips.keys())


def _indices(mask: Any) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices
