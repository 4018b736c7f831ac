"""Parse SRT and WebVTT subtitles into cues, and join adjacent cues into longer clips.

Every line with an arrow becomes a cue, possibly with a fault, which is a counted drop. Libraries
silently lose some: pysubs2 ignores a minus sign, and takes two times within WebVTT's text as a cue
of its own; webvtt-py skips what it cannot parse.
https://www.w3.org/TR/webvtt1
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

ARROW = "-->"
TIME = r"(-?)(?:(\d+):)?(\d+):(\d+)[.,](\d+)"  # hours may be left out
TIMES = re.compile(rf"\s*{TIME}\s*{ARROW}\s*{TIME}(?:\s.*)?")  # WebVTT's settings follow
GAP_SECONDS = 1.0  # pause within speech; a longer gap may contain speech without subtitles
FRAME_SECONDS = 0.05  # of film, rounded up: cues on a grid of frames touch without overlapping


class Cue(NamedTuple):
    """A subtitle: a text with its start and end time."""

    line: int  # number of the line with its times
    start: float  # seconds
    end: float  # seconds
    text: str  # as in the file, with line breaks
    fault: str = ""  # why it cannot be used
    rules: tuple[str, ...] = ()  # names of the text rules that changed it


def parse(text: str) -> Iterator[Cue]:
    """Yield all cues in file order."""
    lines = re.split(r"\r\n|\r|\n", text)
    arrows = [number for number, line in enumerate(lines) if ARROW in line]
    for at, following in pairwise([*arrows, len(lines)]):
        body = lines[at + 1 : following]
        if text.startswith("WEBVTT"):  # an empty line ends a cue; names and comments follow
            body = list(takewhile(bool, body))
        elif following < len(lines) and body and body[-1].strip().isdecimal():
            body.pop()  # the next cue's number
        start, end, fault = _times(lines[at])
        yield Cue(at + 1, start, end, "\n".join(body).strip(), fault)


def screen_overlaps(cues: Sequence[Cue]) -> list[Cue]:
    """Return cues sorted by time; overlapping ones get a fault, since each has another's speech."""
    cues = sorted(cues, key=lambda cue: cue.start)
    overlapping = set()
    furthest = 0  # index of the cue that ends last so far
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
    """Yield groups of adjacent cues with small gaps, each shorter than a limit in seconds.

    The times of a short cue are inexact, and those inside a longer clip do not matter. Cues are
    never cut, and a cue with a fault forms its own group.
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
    """Return start and end in seconds, and their fault, if any."""
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
