"""Format segments as SRT and WebVTT subtitles (https://www.w3.org/TR/webvtt1).

data/corpora/subtitle_parser.py reads them back.
"""

from collections.abc import Sequence

from data.corpora.subtitle_parser import ARROW
from eval.segments import Segment

# SRT has no escapes, and a line with --> would start a cue
SRT_REPLACEMENTS = {ARROW: "→"}
VTT_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}  # in this order


def srt(segments: Sequence[Segment]) -> str:
    """Format segments as SRT."""
    cues = (
        f"{number}\n{_times(segment, ',')}\n{_line(segment.text, SRT_REPLACEMENTS)}\n"
        for number, segment in enumerate(segments, start=1)
    )
    return "\n".join(cues)


def vtt(segments: Sequence[Segment]) -> str:
    """Format segments as WebVTT."""
    cues = (f"{_times(segment, '.')}\n{_line(segment.text, VTT_ESCAPES)}\n" for segment in segments)
    return "\n".join(("WEBVTT\n", *cues))


def _times(segment: Segment, point: str) -> str:
    return f"{_time(segment.start, point)} {ARROW} {_time(segment.end, point)}"


def _time(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds_left:02d}{point}{thousandths:03d}"


def _line(text: str, replacements: dict[str, str]) -> str:
    """Return a text on one line: an empty line would end its cue."""
    text = " ".join(text.split())
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
