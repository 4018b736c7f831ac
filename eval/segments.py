"""Parse timestamp tokens into segments, and clean up segments for subtitles."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data.labels import TIME_STEP, UNSPACED

OPEN_END = math.inf  # end of a last segment without a timestamp token


class Segment(NamedTuple):
    """A piece of a transcript with its start and end."""

    start: float  # seconds
    end: float  # seconds
    text: str


def parse_timestamps(
    ids: Sequence[int], special: range, first: int, decode: Callable[[list[int]], str]
) -> tuple[Segment, ...]:
    """Return the segments between the timestamp tokens of a window; empty without such tokens.

    Args:
        ids: decoded token ids.
        special: ids of special tokens.
        first: id of <|0.00|>; those of later times follow.
        decode: turns token ids into a text.
    """
    segments: list[Segment] = []
    text_ids: list[int] = []
    start, timed = 0.0, False
    for i in ids:
        if i not in special:
            text_ids.append(i)
        if i not in special or i < first:
            continue
        time, timed = (i - first) * TIME_STEP, True
        if text_ids:
            segments.append(Segment(start, time, decode(text_ids)))
        start, text_ids = time, []
    if text_ids:
        segments.append(Segment(start, OPEN_END, decode(text_ids)))
    return tuple(segments) if timed else ()


def join_texts(text: str, following: str, language: str | None) -> str:
    """Join two consecutive texts: a model may omit the space at the start of a window.

    Args:
        text: the first text.
        following: the next text.
        language: Whisper's code. None, or a language without spaces, keeps the spaces of the texts.
    """
    if language is None or language in UNSPACED:
        return text + following
    return f"{text.rstrip()} {following.lstrip()}"


def clean_up_segments(
    segments: Iterable[Segment], seconds: float, language: str | None
) -> list[Segment]:
    """Return segments that do not overlap and end within the audio, in whole milliseconds.

    A model may predict times that decrease, repeat, or lie after the end of the audio. A segment
    that is left without any length is joined to the one before it: no text is lost.

    Args:
        segments: in order, with the spaces between their texts.
        seconds: length of the audio.
        language: Whisper's code of the texts, if it is known.
    """
    last = math.floor(seconds * 1000) / 1000
    cleaned: list[Segment] = []
    for segment in segments:
        if not segment.text.strip():
            continue
        previous_end = cleaned[-1].end if cleaned else 0.0
        end = round(min(segment.end, last), 3)
        start = round(max(segment.start, previous_end), 3)
        if not cleaned and start + TIME_STEP > end:  # there is no segment to join it to
            start = max(0.0, round(min(start, last - TIME_STEP), 3))
            end = min(last, round(start + TIME_STEP, 3))
        elif start + TIME_STEP > end + 1e-6:
            text = join_texts(cleaned[-1].text, segment.text, language)
            cleaned[-1] = cleaned[-1]._replace(text=text)
            continue
        cleaned.append(Segment(start, end, segment.text))
    return [segment._replace(text=segment.text.strip()) for segment in cleaned]
