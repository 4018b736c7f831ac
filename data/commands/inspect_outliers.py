"""Clips that look wrong beside the others of their language, with limits that are told."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.commands.inspect_columns import ColumnStatistics
from data.writing_systems import HAN, SCRIPTS

# How long a text takes is about log-normal around a line: a pause, and so much for each letter.
# Beyond 4 robust standard deviations, of each side by itself, lies 1 clip in 16,000 then; one
# careful voice has so small a deviation that a factor of 2 comes first.
DEVIATIONS = 4.0
FACTOR = 2.0
TO_DEVIATION = 1.4826  # of a normal distribution, from its median absolute deviation
ENOUGH = 30  # clips of a language, below which nothing is said of its pace
RARE = 0.05  # share of a language's letters below which a script is not its own: the Kanji of
# Japanese and the English of code-switched Mandarin have more

Mask = NDArray[np.bool_]  # of clips


class SpeakingRate(NamedTuple):
    """How long a text takes in a language of a corpus, and when that is suspicious."""

    language: str
    unit: str  # letters or tokens
    pause: float  # seconds that every clip has besides its text
    each: float  # seconds a letter or a token
    short: float  # of the time that its text would take: a clip below has too much text
    long: float  # a clip above has too little


class Suspicion(NamedTuple):
    """A clip that looks wrong, and why."""

    clip: int  # its index in the columns
    reason: str  # one of a few words: counted
    detail: str


def paces_of(columns: ColumnStatistics) -> list[SpeakingRate]:
    """Return the pace of each language; none where there are too few clips to tell."""
    paces = []
    for language in columns.names("language"):
        unit, said = _said(columns)
        spoken = columns.where("language", language) & (said > 0)
        if spoken.sum() < ENOUGH:
            continue
        seconds, said = columns.numbers("seconds")[spoken], said[spoken]
        pause, each = _line(said, seconds)
        ratio = seconds / (pause + each * said)
        middle = float(np.median(ratio))
        short = middle / _factor(middle / ratio[ratio <= middle])
        long = middle * _factor(ratio[ratio >= middle] / middle)
        paces.append(SpeakingRate(language, unit, pause, each, short, long))
    return paces


def suspicions(
    columns: ColumnStatistics, paces: list[SpeakingRate], characters: Mapping[str, Counter[str]]
) -> Iterator[Suspicion]:
    """Yield what looks wrong: a clip comes once for each reason.

    Args:
        columns: the clips.
        paces: as paces_of() gives them.
        characters: how often each occurs, by language.
    """
    for pace in paces:
        yield from _out_of_pace(columns, pace)
    for language in columns.names("language"):
        spoken = columns.where("language", language)
        for script in _foreign(columns, spoken, characters[language]):
            for clip in _clips(spoken & columns.where("script", script)):
                yield Suspicion(clip, "another script", script)
    for clip in _clips(columns.numbers("letters") == 0):
        yield Suspicion(clip, "no words", "")
    for clip in _clips(columns.numbers("damaged") == 1):
        yield Suspicion(clip, "damaged text", "")


def _out_of_pace(columns: ColumnStatistics, pace: SpeakingRate) -> Iterator[Suspicion]:
    unit, said = _said(columns)
    spoken = columns.where("language", pace.language) & (said > 0)
    seconds, expected = columns.numbers("seconds"), pace.pause + pace.each * said
    reasons = {
        "too much text": spoken & (seconds < pace.short * expected),
        "too little text": spoken & (seconds > pace.long * expected),
    }
    for reason, mask in reasons.items():
        for clip in _clips(mask):
            told = f"{said[clip]} {unit} in {seconds[clip]:.2f} s; {expected[clip]:.2f} s are usual"
            yield Suspicion(clip, reason, told)


def _said(columns: ColumnStatistics) -> tuple[str, NDArray[np.int32]]:
    """Return the unit, and how many each clip says; 0 where it says none or has no length."""
    unit = "tokens" if columns.numbers("tokens").any() else "letters"
    known = (columns.numbers("seconds") > 0) & (columns.numbers("letters") > 0)
    return unit, np.where(known, columns.numbers(unit), 0)


def _line(said: NDArray[np.int32], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Return Tukey's resistant line, from the medians of the outer thirds: pause and seconds each.

    No pause where the texts are too much alike to tell.
    """
    short, long = np.quantile(said, (1 / 3, 2 / 3))
    few, many = said <= short, said >= long
    run = np.median(said[many]) - np.median(said[few])
    each = (np.median(seconds[many]) - np.median(seconds[few])) / max(1.0, float(run))
    pause = float(np.median(seconds - each * said))
    if run > 0 and each > 0 and pause >= 0:
        return pause, float(each)
    return 0.0, float(np.median(seconds / said))


def _factor(ratios: NDArray[np.float64]) -> float:
    """Return how many times is too much, from how many times there are on one side."""
    return max(FACTOR, float(np.median(ratios)) ** (DEVIATIONS * TO_DEVIATION))


def _foreign(columns: ColumnStatistics, spoken: Mask, characters: Counter[str]) -> list[str]:
    """Return the scripts of a language's clips that are not its own.

    Scripts are weighed by letters, since a Japanese clip may be all kanji; kinds of Han by clips.
    """
    letters: Counter[str] = Counter()
    for character, count in characters.items():
        letters[SCRIPTS[character]] += count
    del letters[""]
    clips = columns.count("script", spoken)
    kinds = {kind: clips.get(kind, 0) for kind in HAN.values()}
    foreign = {s for s in letters if letters[s] < RARE * letters.total()}
    foreign |= {kind for kind in kinds if kinds[kind] < RARE * sum(kinds.values())}
    if "Han" in foreign:
        foreign |= {script for script in clips if script.startswith("Han, ")}
    return sorted(foreign & clips.keys())


def _clips(mask: Any) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices
