"""Recordings next to subtitles: matching files, text rules, and clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.audio.decode import load_audio
from data.config import DataConfig
from data.corpora import read, subtitles
from data.errors import InputError
from data.labels import LabelEncoder
from data.manifest import build_manifest, read_held_out
from data.screening.filters import count_reasons
from data.utterance import Utterance
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]


def srt(*cues: tuple[float, float, str]) -> str:
    """Return SRT."""

    def time(seconds: float) -> str:
        whole = round(seconds * 1000)
        return f"00:{whole // 60_000:02d}:{whole // 1000 % 60:02d},{whole % 1000:03d}"

    return "".join(
        f"{number}\n{time(start)} --> {time(end)}\n{text}\n\n"
        for number, (start, end, text) in enumerate(cues, 1)
    )


def corpus(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files, empty ones for audio."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


ONE = srt((1, 2, "One"))


def rows(folder: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(corpus=(str(folder),), **knobs), split))


def said(tmp_path: Path, *texts: str, **knobs: Any) -> Utterance:
    """Return the texts of consecutive cues after the rules."""
    cues = srt(*((n, n + 1, text) for n, text in enumerate(texts)))
    (u,) = rows(corpus(tmp_path / "mine", {"a.wav": "", "a.srt": cues}), **knobs)
    return u


def test_neighbouring_cues_are_one_clip_of_a_recording(tmp_path: Path) -> None:
    cues = srt((1, 2, "One\ntwo"), (2.5, 4, "three."), (10, 11, "Four"))
    first, second = rows(corpus(tmp_path / "mine", {"a.mp3": "", "a.srt": cues}))
    assert first == Utterance(
        id="mine/a.srt:2",
        audio=str(tmp_path / "mine" / "a.mp3"),
        text="One two three.",
        seconds=3.0,
        corpus=str(tmp_path / "mine"),
        start=1.0,
        end=4.0,
    )
    assert (second.id, second.text, second.start, second.end) == ("mine/a.srt:11", "Four", 10, 11)


def test_clips_hold_the_audio_of_their_cues(tmp_path: Path, write_clip: WriteClip) -> None:
    folder = corpus(tmp_path / "mine", {"a.srt": srt((1, 2, "One"), (4, 6.5, "two"))})
    write_clip(folder / "a.wav", 8.0)
    assert [len(load_audio(u)) for u in rows(folder)] == [16_000, 40_000]


def test_clips_stay_below_the_longest_that_is_trained_on(tmp_path: Path) -> None:
    cues = srt(*((n, n + 1, "word") for n in range(50)))
    folder = corpus(tmp_path / "mine", {"a.mp3": "", "a.srt": cues})
    assert [u.seconds for u in rows(folder)] == [29.0, 21.0]
    assert [u.seconds for u in rows(folder, max_seconds=11.0)] == [10.0] * 5


@pytest.mark.parametrize(
    ("subtitle", "language"),
    [
        ("talk.srt", None),
        ("talk.vtt", None),
        ("talk.en.srt", "en"),
        ("talk.zh-TW.vtt", "zh"),
        ("talk.yue_Hant.SRT", "yue"),
        ("talk.mp3.srt", None),
    ],
)
def test_subtitles_belong_to_the_recording_of_their_name(
    subtitle: str, language: str | None, tmp_path: Path
) -> None:
    text = f"WEBVTT\n\n{ONE.replace(',', '.')}" if subtitle.endswith("vtt") else ONE
    folder = corpus(tmp_path / "mine", {subtitle: text, "talk.mp3": "", "other.mp3": ""})
    (u,) = rows(folder)
    assert (Path(u.audio).name, u.text, u.language) == ("talk.mp3", "One", language)


def test_a_name_with_dots_is_no_language(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "mine", {"talk.no.srt": ONE, "talk.no.mp3": "", "talk.mp3": ""})
    assert [(Path(u.audio).name, u.language) for u in rows(folder)] == [("talk.no.mp3", None)]


def test_splits_are_folders_of_any_depth_or_all_is_train(tmp_path: Path) -> None:
    files = {"train/a/b.srt": ONE, "train/c.srt": ONE, "dev/d.srt": ONE, "e.srt": ONE}
    folder = corpus(tmp_path / "mine", {**files, "train/._c.srt": "no subtitles"})
    assert [u.id for u in rows(folder)] == ["mine/train/a/b.srt:2", "mine/train/c.srt:2"]
    assert [u.id for u in rows(folder, "dev")] == ["mine/dev/d.srt:2"]
    flat = corpus(tmp_path / "flat", {"e.srt": ONE, "dev/d.srt": ONE})
    assert [u.id for u in rows(flat)] == ["flat/e.srt:2"]
    for place in (folder, flat):
        with pytest.raises(InputError, match=r"test: no subtitles .* in folders train, dev and te"):
            rows(place, "test")


def test_the_language_that_is_spoken_chooses_among_several(tmp_path: Path) -> None:
    files = {"a.en.srt": ONE, "a.ko.srt": srt((1, 2, "하나")), "a.mp3": ""}
    folder = corpus(tmp_path / "mine", files)
    assert [u.text for u in rows(folder, language=("ko",))] == ["하나"]
    (u,) = rows(folder, language=("ko",), task=("translate",))  # of Korean speech, into English
    assert (u.text, u.language, u.task) == ("One", "ko", "translate")
    with pytest.raises(InputError, match=r"mine: of a\.en\.srt, a\.ko\.srt, 2 can be the subtitl"):
        rows(folder)
    with pytest.raises(InputError, match=r"0 can be the subtitles in zh: keep one"):
        rows(folder, language=("zh",))


@pytest.mark.parametrize(
    ("cue", "text", "rule"),
    [
        ("<i>One</i> <font color='red'>two</font>", "One two", "markup removed"),
        (r"{\an8}One", "One", "markup removed"),
        ("One &amp; two", "One & two", "entities replaced"),
        ("[Music] One [laughs] two ♪", "One two", "sounds in brackets removed"),
        ("【음악】 하나", "하나", "sounds in brackets removed"),
        ("(sighs) One", "One", "words in parentheses removed"),
        ("（웃음）하나", "하나", "words in parentheses removed"),
        (">> ANN LEE: One\n>> Two", "One Two", "marks of speakers removed"),
        (">> 기자: 하나", "하나", "marks of speakers removed"),
        (">> He said: one", "He said: one", "marks of speakers removed"),
    ],
)
def test_text_that_is_not_spoken_is_removed_by_named_rules(
    cue: str, text: str, rule: str, tmp_path: Path
) -> None:
    u = said(tmp_path, cue)
    assert (u.text, u.rules) == (text, (rule,))


def test_what_people_say_is_left_alone(tmp_path: Path) -> None:
    text = '- 1 < 2, 3 > 2: "O\'Neil" {x} 50 % #1'
    assert (said(tmp_path, text).text, said(tmp_path, text).rules) == (text, ())


def test_rules_of_all_cues_are_named_once(tmp_path: Path) -> None:
    u = said(tmp_path, "<b>One</b>", "[bang] two", "<b>three</b>", "four")
    assert u.text == "One two three four"
    assert u.rules == ("markup removed", "sounds in brackets removed")


def test_lines_and_cues_meet_without_a_space_in_scripts_that_have_none(tmp_path: Path) -> None:
    lines = ("今天\n天氣", "很好 對", "OK\n好")
    assert said(tmp_path, *lines, language=("zh",)).text == "今天天氣很好 對 OK 好"
    assert said(tmp_path, *lines, language=("ko",)).text == "今天 天氣 很好 對 OK 好"


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


FAULTS = {
    "cue without words": 2,
    "overlaps another cue": 2,
    "cue without length": 1,
    "reversed times": 1,
    "negative times": 1,
    "unreadable times": 1,
    "after the end": 1,
    "truncated": 1,
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_cues_that_cannot_be_used_are_counted_by_reason(
    split: str, tmp_path: Path, write_clip: WriteClip, label_encoder: LabelEncoder
) -> None:
    cues = [(0, 1, "one"), (3, 4, "[Music]"), (5, 7, "two"), (6, 8, "three"), (9, 9, "four")]
    cues += [(9.8, 9.2, "five"), (10, 11, "♪ ♪"), (18, 24, "six"), (30, 31, "seven")]
    text = srt(*cues, (11.5, 12, "nine"))
    text += "10\n-00:00:01,000 --> 00:00:01,000\nten\n\n11\nlater --> soon\neleven\n"
    folder = corpus(tmp_path / "mine", {f"{split}/a.srt": text})
    write_clip(folder / split / "a.wav", 20.0)
    config = DataConfig(
        corpus=(str(folder),), language=("en",), workers=0, dev_split=None, test_split=None
    )
    if split == "train":
        manifest, drops = build_manifest(config, label_encoder, tmp_path / "c.jsonl", show=False)
        kept = manifest.train
    else:
        kept, drops = read_held_out(
            config, label_encoder, tmp_path / "c.jsonl", split=split, show=False
        )
    assert count_reasons(drops) == {split: FAULTS}
    assert [u.text for u in kept] == ["one", "nine"]
    (bad,) = (drop for drop in drops if drop.reason == "unreadable times")
    assert (bad.id, bad.detail) == (f"mine/{split}/a.srt:46", "eleven")


def test_subtitles_without_a_recording_are_missing_audio(
    tmp_path: Path, label_encoder: LabelEncoder
) -> None:
    folder = corpus(tmp_path / "mine", {"train/talk.en.srt": ONE})
    config = DataConfig(corpus=(str(folder),), workers=0, dev_split=None, test_split=None)
    with pytest.raises(InputError, match=r"mine/train/talk: no such file, though train lists it"):
        build_manifest(config, label_encoder, tmp_path / "c.jsonl", show=False)


def test_a_film_is_found_and_reported_as_unreadable(
    tmp_path: Path, label_encoder: LabelEncoder
) -> None:
    folder = corpus(tmp_path / "mine", {"train/a.en.srt": ONE, "train/a.mp4": b"no sound file"})
    config = DataConfig(corpus=(str(folder),), workers=0, dev_split=None, test_split=None)
    with pytest.raises(InputError, match=r"were dropped: 1 unreadable"):
        build_manifest(config, label_encoder, tmp_path / "c.jsonl", show=False)


def test_a_sound_file_comes_before_a_film(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "mine", {"a.srt": ONE, "a.mp4": "", "a.flac": "", "a.MP3": ""})
    assert [Path(u.audio).name for u in rows(folder)] == ["a.flac"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    content = (mark + srt((1, 2, "하나 둘"))).encode(encoding)
    folder = corpus(tmp_path / "mine", {"a.srt": content})
    assert [u.text for u in rows(folder)] == ["하나 둘"]


@pytest.mark.parametrize("encoding", ["cp949", "gb18030", "big5", "shift_jis"])
def test_other_encodings_raise_an_input_error(encoding: str, tmp_path: Path) -> None:
    content = srt((1, 2, "一二三")).encode(encoding)
    folder = corpus(tmp_path / "mine", {"a.srt": content})
    with pytest.raises(InputError, match=r"a\.srt: not in UTF-8 or UTF-16: .*iconv -f CP949 -t UT"):
        rows(folder)


@pytest.mark.parametrize("content", ["", "no subtitles", ONE.encode("utf-16-le")])
def test_a_file_without_cues_raises_an_input_error(content: str | bytes, tmp_path: Path) -> None:
    folder = corpus(tmp_path / "mine", {"a.srt": content})
    with pytest.raises(InputError, match=r"a\.srt: has no cue, such as 00:01:02,500 --> "):
        rows(folder)


def test_captions_that_roll_up_raise_an_input_error(tmp_path: Path) -> None:
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\none<00:00:01.480><c> two</c>\n"
    folder = corpus(tmp_path / "mine", {"a.en.vtt": text, "a.mp3": ""})
    with pytest.raises(InputError, match=r"a\.en\.vtt: has times between words"):
        rows(folder)


def test_a_recording_that_is_a_link_out_of_the_corpus_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "mine", {"a.srt": ONE})
    (folder / "a.mp3").symlink_to(corpus(tmp_path, {"secret.mp3": ""}) / "secret.mp3")
    with pytest.raises(InputError, match=r"a\.srt: 'a\.mp3' is a link that leads out"):
        rows(folder)


def test_a_folder_is_known_by_its_subtitles(tmp_path: Path) -> None:
    assert not subtitles.matches(tmp_path)
    assert subtitles.matches(corpus(tmp_path, {"train/show/a.vtt": ""}))
