"""What was said when: from a row of ids with times to segments that a subtitle can show."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data.labels import TIME_STEP, UNSPACED

UNTIL_THE_END = math.inf  # a model may end its text without a last time


class Segment(NamedTuple):
    """What was said from one time to another."""

    start: float  # seconds
    end: float  # seconds
    text: str


def between_times(
    ids: Sequence[int], special: range, first: int, read: Callable[[list[int]], str]
) -> tuple[Segment, ...]:
    """Return what stands between the tokens of times in a window; none where there are none.

    Args:
        ids: what was decoded.
        special: ids that are no text.
        first: id of the time 0; those of later times follow.
        read: turns ids into a text.
    """
    found: list[Segment] = []
    words: list[int] = []
    start, timed = 0.0, False
    for i in ids:
        if i not in special:
            words.append(i)
        if i not in special or i < first:
            continue
        time, timed = (i - first) * TIME_STEP, True
        if words:
            found.append(Segment(start, time, read(words)))
        start, words = time, []
    if words:
        found.append(Segment(start, UNTIL_THE_END, read(words)))
    return tuple(found) if timed else ()


def joined(text: str, following: str, language: str | None) -> str:
    """Join two texts: a model may forget the space at the beginning of a window.

    Args:
        text: what is said first.
        following: what is said next.
        language: Whisper's code; where it is unknown, or has no spaces, those of the texts stay.
    """
    if language is None or language in UNSPACED:
        return text + following
    return f"{text.rstrip()} {following.lstrip()}"


def tidy(segments: Iterable[Segment], seconds: float, language: str | None) -> list[Segment]:
    """Return segments that follow one another and end with the audio, in whole milliseconds.

    A model may say times that run backwards, stand still, or lie in the silence behind the audio.
    What is left without any length joins the segment before it: no text is lost.

    Args:
        segments: in the order in which they are said, with the spaces between them.
        seconds: length of the audio.
        language: Whisper's code of the texts, if it is known.
    """
    last = math.floor(seconds * 1000) / 1000
    kept: list[Segment] = []
    for segment in segments:
        if not segment.text.strip():
            continue
        free = kept[-1].end if kept else 0.0
        end = round(min(segment.end, last), 3)
        start = round(max(segment.start, free), 3)
        if not kept and start + TIME_STEP > end:  # nothing to join
            start = max(0.0, round(min(start, last - TIME_STEP), 3))
            end = min(last, round(start + TIME_STEP, 3))
        elif start + TIME_STEP > end + 1e-6:
            kept[-1] = kept[-1]._replace(text=joined(kept[-1].text, segment.text, language))
            continue
        kept.append(Segment(start, end, segment.text))
    return [segment._replace(text=segment.text.strip()) for segment in kept]
