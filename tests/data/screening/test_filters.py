"""Every drop has a reason and is counted; other utterances are kept unchanged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.errors import InputError
from data.screening.durations import Measurement
from data.screening.filters import (
    count_reasons,
    refuse_broken,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_leaks,
    screen_repeats,
    screen_training,
)
from data.utterance import Drop, Utterance


def utterance(name: str = "a", **settings: Any) -> Utterance:
    """Return an utterance."""
    known = {"audio": f"/{name}.mp3", "text": "one", "seconds": 2.0, "tokens": 6}
    return Utterance(id=name, **{**known, **settings})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"text": ""}, "empty text"),
        ({"text": "one <|en|> two"}, "special token in text"),
        ({"text": "<|startoftranscript|>"}, "special token in text"),
        ({"text": "<|0.00|> one"}, "special token in text"),
        ({"text": "…?!"}, "no words in text"),
        ({"text": "。、「」"}, "no words in text"),
        ({"text": "🎵 + ♪"}, "no words in text"),
        ({"text": "caf\ufffd"}, "damaged text"),
        ({"text": "one\0two"}, "damaged text"),
        ({"seconds": 0.05}, "too short"),
        ({"seconds": 30.0}, "too long"),
        ({"seconds": 31.0}, "too long"),
        ({"tokens": 449}, "label too long"),
    ],
)
def test_what_training_cannot_use_is_dropped_with_its_reason(
    settings: dict[str, Any], reason: str
) -> None:
    bad = utterance("bad", **settings)
    kept, drops = screen_training([utterance(), bad], "train", DataConfig(), 448)
    assert kept == [utterance()]
    assert count_reasons(drops) == {"train": {reason: 1}}
    assert (drops[0].id, drops[0].audio) == (bad.id, bad.audio)


def test_what_its_reader_finds_a_fault_in_is_dropped_for_it() -> None:
    bad = utterance("bad", fault="no transcript", text="")
    kept, drops = screen_faults([utterance(), bad], "dev")
    assert kept == [utterance()]
    assert [(d.split, d.id, d.audio, d.reason) for d in drops] == [
        ("dev", "bad", "/bad.mp3", "no transcript")
    ]


def test_what_just_fits_is_kept_as_it_is() -> None:
    edge = [
        utterance("a", seconds=0.1),
        utterance("b", seconds=29.999),
        utterance("c", tokens=448),
        utterance("d", text="a < b | c > d <> <||"),
        *(utterance(text, text=text) for text in ("7!", "四", "हाँ", "ابجد", "가", "½", "é?")),
    ]
    assert screen_training(edge, "train", DataConfig(), 448) == (edge, [])


def test_limits_are_the_users() -> None:
    config = DataConfig(min_seconds=1.0, max_seconds=20.0)
    bad = [utterance("a", seconds=0.9), utterance("b", seconds=20.0)]
    _, drops = screen_training(bad, "train", config, 448)
    assert [(d.reason, d.detail) for d in drops] == [
        ("too short", "0.90 s; data.min_seconds is 1"),
        ("too long", "20.00 s; data.max_seconds is 20"),
    ]


def test_measured_lengths_replace_what_tables_say() -> None:
    found = {"/a.mp3": Measurement(seconds=2.0312345678)}
    kept, drops = screen_audio([utterance(), utterance("b", seconds=7.0)], "train", found)
    assert [u.seconds for u in kept] == [2.031235, 7.0]  # nobody looked at the second
    assert drops == []


def test_what_cannot_be_decoded_is_dropped_with_its_reason() -> None:
    found = {
        "/missing.mp3": Measurement(reason="missing", detail="no such file"),
        "/bad.mp3": Measurement(reason="unreadable", detail="no header"),
        "/half.mp3": Measurement(seconds=1.0),
        "/nothing.mp3": Measurement(seconds=0.0),
    }
    rows = [utterance(name[1:-4], audio=name) for name in found]
    kept, drops = screen_audio(rows, "train", found)
    assert kept == []
    assert [d.reason for d in drops] == ["missing", "unreadable", "truncated", "truncated"]
    assert drops[2].detail == "1.00 s decoded of 2.00 s declared"


def test_slices_have_their_own_length() -> None:
    found = {"/a.mp3": Measurement(seconds=10.0)}
    rows = [
        utterance("1", audio="/a.mp3", start=1.0, end=3.5, seconds=2.5),
        utterance("2", audio="/a.mp3", start=8.0, seconds=0.0),
    ]
    kept, _ = screen_audio(rows, "train", found)
    assert [u.seconds for u in kept] == [2.5, 2.0]


@pytest.mark.parametrize(
    ("start", "end", "length", "reason"),
    [
        (12.0, None, 10.0, "after the end"),
        (3550.0, 3560.0, 3530.0, "after the end"),
        (9.0, 12.0, 10.0, "truncated"),
    ],
)
def test_a_slice_behind_the_end_of_its_file_is_dropped(
    start: float, end: float | None, length: float, reason: str
) -> None:
    u = utterance(start=start, end=end, seconds=0.0 if end is None else end - start)
    kept, drops = screen_audio([u], "test", {u.audio: Measurement(seconds=length)})
    assert kept == []
    assert [d.reason for d in drops] == [reason]


def test_clips_sentences_and_speakers_of_dev_and_test_are_left_out_in_that_order() -> None:
    held = [utterance("dev", text="held", speaker="ann"), utterance("test", text="too")]
    rows = [
        utterance("dev", text="held", speaker="ann"),
        utterance("b", text="held", speaker="ann"),
        utterance("c", text="other", speaker="ann"),
        utterance("d", text="other", speaker="bob"),
        utterance("e", text="other", speaker=None),
        utterance("f", text="too", speaker=None),
    ]
    kept, drops = screen_leaks(rows, "validated", held)
    assert [u.id for u in kept] == ["d", "e"]  # nobody's clips are not all one speaker's
    assert [(d.id, d.reason) for d in drops] == [
        ("dev", "clip of dev or test"),
        ("b", "sentence of dev or test"),
        ("c", "speaker of dev or test"),
        ("f", "sentence of dev or test"),
    ]


def test_rows_listed_twice_are_kept_once() -> None:
    rows = [utterance("a"), utterance("b"), utterance("a", text="again")]
    kept, drops = screen_repeats(rows, "train+dev")
    assert kept == rows[:2]
    assert count_reasons(drops) == {"train+dev": {"listed twice": 1}}


def test_missing_audio_stops_unless_the_user_said_to_go_on() -> None:
    drops = [
        Drop(split="train", id=name, audio=f"/{name}.mp3", reason=reason)
        for name, reason in (("a", "truncated"), ("b", "missing"), ("c", "missing"))
    ]
    with pytest.raises(InputError, match=r"data.missing_audio=drop") as error:
        refuse_missing(drops, DataConfig())
    assert "/b.mp3: no such file, though train lists it (2 such rows in all)" in str(error.value)
    refuse_missing(drops, DataConfig(missing_audio="drop"))
    refuse_missing(drops[:1], DataConfig())


def test_what_is_too_long_to_be_held_whole_is_named_before_it_is_decoded() -> None:
    found = {"/a.mp3": Measurement(seconds=5 * 3600.0)}
    kept, drops = screen_audio(
        [utterance(), utterance("b", audio="/a.mp3", end=2.0)], "test", found
    )
    assert [u.id for u in kept] == ["b"]
    assert [(d.reason, d.detail) for d in drops] == [
        ("too long", "18000 s; the limit is 14400 s: list slices of it")
    ]


def drops_of(**counts: int) -> list[Drop]:
    """Return drops of the training split; underscores stand for blanks."""
    return [
        Drop(split="train", id=f"{reason}{n}", audio=f"/{n}.mp3", reason=reason.replace("_", " "))
        for reason, count in counts.items()
        for n in range(count)
    ]


def test_too_many_broken_clips_raise_one_input_error_with_the_figures_and_the_remedy() -> None:
    drops = drops_of(truncated=7, silent=9, kills_the_decoder=1, too_long=500, listed_twice=90)
    with pytest.raises(InputError) as error:
        refuse_broken(drops, 1200, DataConfig(), Path("/runs/a/drops.jsonl"))
    assert str(error.value) == (
        "17 of 1,200 clips of train are broken, most of them (9) silent, such as /0.mp3; all are "
        "listed in /runs/a/drops.jsonl: repair them, or continue without them with "
        "data.max_broken_share=0.02"
    )
    refuse_broken(drops, 1200, DataConfig(max_broken_share=0.02), Path("drops.jsonl"))
    refuse_broken(drops, 1700, DataConfig(), Path("drops.jsonl"))


@pytest.mark.parametrize(
    "drops",
    [
        drops_of(too_long=99, too_short=99, label_too_long=99, empty_text=99, damaged_text=99),
        [replace(drop, split="dev") for drop in drops_of(unreadable=99)],
        [replace(drop, id="a") for drop in drops_of(unreadable=99)],  # once an epoch
        drops_of(unreadable=1),  # of very few rows
        [],
    ],
)
def test_what_is_no_fault_of_the_training_clips_is_not_counted(drops: list[Drop]) -> None:
    refuse_broken(drops, 100 if len(drops) != 1 else 3, DataConfig(), Path("drops.jsonl"))


def test_missing_clips_are_faults_unless_they_were_accepted() -> None:
    with pytest.raises(InputError, match="most of them \\(5\\) missing"):
        refuse_broken(drops_of(missing=5), 100, DataConfig(), Path("drops.jsonl"))
    refuse_broken(drops_of(missing=5), 100, DataConfig(missing_audio="drop"), Path("drops.jsonl"))


def test_none_at_all_may_be_asked_for() -> None:
    with pytest.raises(InputError, match="1 of 1,000,000 clips"):
        refuse_broken(
            drops_of(silent=1), 10**6, DataConfig(max_broken_share=0.0), Path("drops.jsonl")
        )
    refuse_broken([], 10**6, DataConfig(max_broken_share=0.0), Path("drops.jsonl"))


def test_reasons_are_counted_by_split_the_most_frequent_first() -> None:
    drop = Drop(split="train", id="a", audio="/a", reason="too long")
    drops = [drop, replace(drop, reason="unreadable"), replace(drop, reason="unreadable")]
    drops.append(replace(drop, split="dev"))
    counts = count_reasons(drops)
    assert counts == {"train": {"unreadable": 2, "too long": 1}, "dev": {"too long": 1}}
    assert list(counts["train"]) == ["unreadable", "too long"]
    assert count_reasons([]) == {}
