"""Subtitles survive a round trip; segments do not overlap and end within the audio."""

import html
import math

import pytest

from data.corpora.subtitle_parser import parse, screen_overlaps
from eval.segments import Segment, clean_up_segments, join_texts, parse_timestamps
from eval.transcribe.subtitles import srt, vtt

SAID = [
    Segment(0.0, 1.5, "Press 1 & <then> 2"),
    Segment(1.5, 59.999, "5"),  # a number alone is no cue's number
    Segment(3599.5, 3661.001, "一、二、三"),
    Segment(360_000.0, 360_001.0, "WEBVTT\nNOTE of\r\n\r\ntwo lines"),
]
LINES = [" ".join(each.text.split()) for each in SAID]


@pytest.mark.parametrize(("write", "read"), [(srt, str), (vtt, html.unescape)])
def test_written_subtitles_are_parsed_back_unchanged(write: object, read: object) -> None:
    cues = list(parse(write(SAID)))  # type: ignore[operator]
    assert [(cue.start, cue.end) for cue in cues] == [(each.start, each.end) for each in SAID]
    assert [read(cue.text) for cue in cues] == LINES  # type: ignore[operator]
    assert not any(cue.fault for cue in screen_overlaps(cues))


@pytest.mark.parametrize("write", [srt, vtt])
def test_an_arrow_in_a_text_does_not_start_a_cue(write: object) -> None:
    (cue,) = parse(write([Segment(0.0, 1.0, "00:01 --> 00:02")]))  # type: ignore[operator]
    assert not cue.fault
    assert html.unescape(cue.text) in ("00:01 → 00:02", "00:01 --> 00:02")


def test_no_segments_give_a_file_without_cues() -> None:
    assert (srt([]), vtt([])) == ("", "WEBVTT\n")


def test_text_between_timestamp_tokens_is_a_segment() -> None:
    def read(ids: list[int]) -> str:
        return "".join(map(chr, ids))

    special, first = range(200, 2000), 300
    row = [201, 300, 97, 98, 310, 310, 99, 350, 375, 100]
    assert parse_timestamps(row, special, first, read) == (
        Segment(0.0, 0.2, "ab"),
        Segment(0.2, 1.0, "c"),
        Segment(1.5, math.inf, "d"),  # the model ended without a last time
    )
    assert parse_timestamps([201, 97, 98], special, first, read) == ()


@pytest.mark.parametrize(
    ("segments", "kept"),
    [
        ([(0, 2, " a"), (2, 4, " b")], [(0, 2, "a"), (2, 4, "b")]),
        ([(0, 2, " a"), (1, 4, " b")], [(0, 2, "a"), (2, 4, "b")]),  # overlap
        ([(0, 2, " a"), (2, 99, " b")], [(0, 2, "a"), (2, 5.1, "b")]),  # beyond the end
        ([(0, 2, " a"), (2, 2, " b")], [(0, 2, "a b")]),  # no length
        ([(0, 2, "一"), (1, 2, "二")], [(0, 2, "一二")]),  # no spaces are put in
        ([(0, 4, " a"), (3, 1, " b")], [(0, 4, "a b")]),  # backwards
        ([(9, 12, " a"), (12, 13, " b")], [(5.08, 5.1, "a b")]),  # all of it behind the end
        ([(0, 0, " a"), (0, 2, " b")], [(0, 0.02, "a"), (0.02, 2, "b")]),
        ([(0, math.inf, " a")], [(0, 5.1, "a")]),
        ([(0, 1, "  "), (1, 2, "a")], [(1, 2, "a")]),
        ([], []),
    ],
)
def test_segments_do_not_overlap_and_end_within_the_audio(segments: list, kept: list) -> None:
    seconds = 5.1009
    language = "zh" if any("一" in each[2] for each in segments) else "en"
    found = clean_up_segments([Segment(*each) for each in segments], seconds, language)
    assert found == [Segment(*each) for each in kept]
    assert "".join(s.text for s in found).replace(" ", "") == "".join(
        each[2] for each in segments
    ).replace(" ", "")
    edges = [edge for each in found for edge in each[:2]]
    assert edges == sorted(edges)
    assert all(edge <= seconds for edge in edges)


@pytest.mark.parametrize(
    ("texts", "language", "told"),
    [
        ((" is dialed.", "to dial"), "en", " is dialed. to dial"),  # a window without its space
        ((" is dialed. ", " to dial"), "en", " is dialed. to dial"),
        (("一", "二"), "zh", "一二"),
        (("一", " AI"), "zh", "一 AI"),
        ((" one", " two"), None, " one two"),
    ],
)
def test_windows_are_joined_with_or_without_spaces_by_language(
    texts: tuple[str, str], language: str | None, told: str
) -> None:
    assert join_texts(*texts, language) == told
