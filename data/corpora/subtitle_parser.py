"""Subtitles in SRT or WebVTT: cues with times, and neighbours joined into longer clips.

Every line with an arrow becomes a cue, or a cue with a fault, which is a counted drop. Libraries
lose some in silence: pysubs2 ignores a minus sign and takes two times within WebVTT's text for a
cue of its own; webvtt-py passes over what it cannot read.
https://www.w3.org/TR/webvtt1
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

ARROW = "-->"
TIME = r"(-?)(?:(\d+):)?(\d+):(\d+)[.,](\d+)"  # hours may be left out
TIMES = re.compile(rf"\s*{TIME}\s*{ARROW}\s*{TIME}(?:\s.*)?")  # WebVTT's settings follow
GAP_SECONDS = 1.0  # a pause within speech; a longer silence may hide words that have no subtitle
FRAME_SECONDS = 0.05  # of film, rounded up: times on a grid of frames touch, and do not overlap


class Cue(NamedTuple):
    """What is said from one time to another."""

    line: int  # of its times in the file
    start: float  # seconds
    end: float  # seconds
    text: str  # as in the file, lines and all
    fault: str = ""  # why it cannot be used
    rules: tuple[str, ...] = ()  # that changed its text


def parse(text: str) -> Iterator[Cue]:
    """Yield all cues in the order of the file."""
    lines = re.split(r"\r\n|\r|\n", text)
    arrows = [number for number, line in enumerate(lines) if ARROW in line]
    for at, following in pairwise([*arrows, len(lines)]):
        said = lines[at + 1 : following]
        if text.startswith("WEBVTT"):  # an empty line ends a cue; then come names and comments
            said = list(takewhile(bool, said))
        elif following < len(lines) and said and said[-1].strip().isdecimal():
            said.pop()  # the number of the following cue
        start, end, fault = _times(lines[at])
        yield Cue(at + 1, start, end, "\n".join(said).strip(), fault)


def screen_overlaps(cues: Sequence[Cue]) -> list[Cue]:
    """Return cues by time, those with a fault that overlap: each is heard under another's text."""
    cues = sorted(cues, key=lambda cue: cue.start)
    overlapping = set()
    furthest = 0  # of the cues so far, the one that ends last
    for number, cue in enumerate(cues):
        if number and cue.start < cues[furthest].end - FRAME_SECONDS:
            overlapping |= {number, furthest}
        if cue.end > cues[furthest].end:
            furthest = number
    return [
        cue._replace(fault="overlaps another cue") if number in overlapping else cue
        for number, cue in enumerate(cues)
    ]


def join(cues: Sequence[Cue], limit: float) -> Iterator[list[Cue]]:
    """Yield neighbours together, shorter than a limit in seconds and with small gaps between.

    The times of a short cue are rough, and those within a longer clip do not matter. A cue is never
    cut, and one that has a fault stands alone.
    """
    group: list[Cue] = []
    for cue in cues:
        near = bool(group) and cue.start - group[-1].end <= GAP_SECONDS
        fits = near and cue.end - group[0].start < limit
        if group and (not fits or cue.fault or group[-1].fault):
            yield group
            group = []
        group.append(cue)
    if group:
        yield group


def _times(line: str) -> tuple[float, float, str]:
    """Return start and end in seconds, and what is wrong with them."""
    match = TIMES.fullmatch(line)
    if match is None:
        return 0.0, 0.0, "unreadable times"
    start, end = (_seconds(*match.groups()[at : at + 5]) for at in (0, 5))
    if start < 0 or end < 0:
        return start, end, "negative times"
    if start == end:
        return start, end, "cue without length"
    return start, end, "reversed times" if end < start else ""


def _seconds(sign: str, hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    total = int(hours or 0) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")
    return -total if sign else total
