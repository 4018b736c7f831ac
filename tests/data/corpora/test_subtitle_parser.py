"""Subtitles: every line with an arrow is a cue or a counted drop; adjacent cues are joined."""

import pytest

from data.corpora.subtitle_parser import (
    FRAME_SECONDS,
    GAP_SECONDS,
    Cue,
    join,
    parse,
    screen_overlaps,
)

SRT = """1
00:00:01,000 --> 00:00:02,500
One
two

2
00:00:03,000 --> 00:01:04,5
<i>Three</i>


4

3
1:00:05.000 --> 1:00:06.000 X1:40 X2:600
Four
5
"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE a comment
of two lines

opening
00:01.000 --> 00:02.500 align:start position:0%
One
 two

NOTE another

00:03.000 --> 00:04.000
42

1:00:05.000 --> 1:00:06.000
<v Ann>Four</v>
"""


def spans(text: str) -> list[tuple[float, float, str]]:
    """Return texts with their times."""
    cues = list(parse(text))
    assert not any(cue.fault for cue in cues)
    return [(cue.start, cue.end, cue.text) for cue in cues]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_srt_is_read_with_its_numbers_left_out(end: str) -> None:
    assert spans(SRT.replace("\n", end)) == [
        (1.0, 2.5, "One\ntwo"),
        (3.0, 64.5, "<i>Three</i>\n\n\n4"),
        (3605.0, 3606.0, "Four\n5"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_webvtt_is_read_with_names_styles_and_comments_left_out(end: str) -> None:
    assert spans(VTT.replace("\n", end)) == [
        (1.0, 2.5, "One\n two"),
        (3.0, 4.0, "42"),
        (3605.0, 3606.0, "<v Ann>Four</v>"),
    ]


def test_srt_without_numbers_or_empty_lines_is_read() -> None:
    text = "00:00:01,000 --> 00:00:02,000\nOne\n2\n00:00:03,000 --> 00:00:04,000\nTwo"
    assert spans(text) == [(1.0, 2.0, "One"), (3.0, 4.0, "Two")]


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        ("-00:00:01,000 --> 00:00:02,000", "negative times"),
        ("00:00:01,000 --> -00:00:02,000", "negative times"),
        ("00:00:02,000 --> 00:00:02,000", "cue without length"),
        ("00:00:02,000 --> 00:00:01,999", "reversed times"),
        ("00:00:02 --> 00:00:03", "unreadable times"),
        ("00:00:-2,000 --> 00:00:03,000", "unreadable times"),
        ("one --> two", "unreadable times"),
        ("-->", "unreadable times"),
    ],
)
def test_times_that_cannot_be_are_a_fault_of_their_cue_alone(times: str, fault: str) -> None:
    good = "00:01:00,000 --> 00:01:01,000\ngood\n"
    cues = list(parse(f"1\n{good}\n2\n{times}\nbad\n\n3\n{good}"))
    assert [cue.fault for cue in cues] == ["", fault, ""]
    assert [cue.text for cue in cues] == ["good", "bad", "good"]
    assert [cue.line for cue in cues] == [2, 6, 10]


def cues(*times: tuple[float, float]) -> list[Cue]:
    """Return cues whose texts are their times."""
    return [Cue(n, start, end, f"{start}") for n, (start, end) in enumerate(times)]


def faulty(*times: tuple[float, float]) -> list[float]:
    """Return the start times of overlapping cues."""
    return [cue.start for cue in screen_overlaps(cues(*times)) if cue.fault]


def test_both_cues_that_overlap_have_the_fault() -> None:
    assert faulty((0, 2), (1, 3), (4, 5)) == [0, 1]
    assert faulty((4, 5), (1, 3), (0, 2)) == [0, 1]
    assert faulty((0, 2), (0, 2)) == [0, 0]


def test_a_long_cue_overlaps_all_that_it_holds() -> None:
    assert faulty((0, 10), (1, 2), (3, 4), (9, 12), (12, 13)) == [0, 1, 3, 9]


def test_cues_that_touch_within_a_frame_do_not_overlap() -> None:
    assert faulty((0, 1), (1, 2), (2 - 0.9 * FRAME_SECONDS, 3)) == []
    assert faulty((0, 1), (1 - 1.1 * FRAME_SECONDS, 2)) == [0, 1 - 1.1 * FRAME_SECONDS]


def joined(*times: tuple[float, float], limit: float = 30.0) -> list[list[float]]:
    """Return the start times of the cues of each group."""
    return [[cue.start for cue in group] for group in join(screen_overlaps(cues(*times)), limit)]


def test_neighbours_are_joined_while_gaps_are_small() -> None:
    near, far = 1 + GAP_SECONDS, 1 + GAP_SECONDS + 0.001
    assert joined((0, 1), (near, 3), (4, 5)) == [[0, near, 4]]
    assert joined((0, 1), (far, 3), (4, 5)) == [[0], [far, 4]]
    assert joined() == []


def test_no_group_reaches_the_limit_and_no_cue_is_cut() -> None:
    times = [(n, n + 1.0) for n in range(100)]
    groups = joined(*times, limit=30.0)
    assert [len(group) for group in groups] == [29, 29, 29, 13]
    assert [start for group in groups for start in group] == [start for start, _ in times]
    assert joined((0, 40), (40, 41), limit=30.0) == [[0], [40]]


def test_what_overlaps_stands_alone_and_is_not_joined_over() -> None:
    assert joined((0, 1), (1.2, 1.5), (1.3, 1.6), (1.8, 2)) == [[0], [1.2], [1.3], [1.8]]
