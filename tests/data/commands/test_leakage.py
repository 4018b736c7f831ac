"""`python -m data leakage` reports what two splits share."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.commands.leakage import LeakageConfig, Shared, report_leakage
from data.config import DataConfig
from data.errors import InputError

WriteClip = Callable[..., Path]


def release(folder: Path, **splits: list[tuple[str, str, str]]) -> Path:
    """Write a folder of Common Voice: clips, speakers and sentences, by split."""
    (folder / "clips").mkdir(parents=True)
    for split, rows in splits.items():
        lines = ["client_id\tpath\tsentence", *("\t".join((w, c, s)) for c, w, s in rows)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def shared(corpus: Path, other: Path, **knobs: Any) -> dict[str, Shared]:
    """Return the shared keys of two splits, by kind."""
    config = LeakageConfig(corpus=str(corpus), other=str(other), **knobs)
    return {each.kind: each for each in report_leakage(config)}


def test_what_two_releases_share_is_counted_on_both_sides(tmp_path: Path) -> None:
    old = release(
        tmp_path / "16" / "en",
        train=[("1.mp3", "ann", "One."), ("2.mp3", "ann", "Two."), ("3.mp3", "bob", "Three")],
    )
    new = release(
        tmp_path / "17" / "en",
        test=[
            ("2.mp3", "ann", "Two."),
            ("7.mp3", "cy", "three!"),
            ("8.mp3", "cy", "Three"),
            ("9.mp3", "", "four"),
        ],
    )
    found = shared(old, new)
    assert {kind: each.shared for kind, each in found.items()} == {
        "clip": ["en/2.mp3"],
        "sentence": ["Two.", "Three"],
        "plain sentence": ["two", "three"],
        "speaker": ["ann"],
    }
    counts = {kind: (e.clips, e.of, e.other_clips, e.other_of) for kind, e in found.items()}
    assert counts == {
        "clip": (1, 3, 1, 4),
        "sentence": (2, 3, 2, 4),
        "plain sentence": (2, 3, 3, 4),
        "speaker": (2, 3, 1, 3),
    }


def test_a_corpus_is_all_in_itself(tone_corpus: Path) -> None:
    for each in shared(tone_corpus, tone_corpus, other_split="train", audio=True).values():
        assert each.clips == each.of == each.other_clips == each.other_of == 24


def test_audio_is_known_by_its_bytes_under_any_name(tmp_path: Path, write_clip: WriteClip) -> None:
    one = release(tmp_path / "a" / "en", train=[("1.mp3", "ann", "one"), ("2.mp3", "ann", "two")])
    other = release(tmp_path / "b" / "en", test=[("9.mp3", "bob", "six"), ("0.mp3", "bob", "ten")])
    for number, folder in ((1, one), (2, one), (0, other)):
        write_clip(folder / "clips" / f"{number}.mp3", 1.0 + number)
    shutil.copy(one / "clips" / "2.mp3", other / "clips" / "9.mp3")
    found = shared(one, other, audio=True)["audio"]
    assert (found.clips, found.of, found.other_clips, found.other_of) == (1, 2, 1, 2)


def test_slices_of_a_recording_are_not_the_same_audio(
    tmp_path: Path, write_clip: WriteClip
) -> None:
    write_clip(tmp_path / "m" / "a.wav", 4.0)
    for split, start in (("train", 0), ("dev", 1), ("test", 0)):
        row = {"path": "a.wav", "text": split, "start": start, "end": 2}
        (tmp_path / "m" / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    corpus = tmp_path / "m"
    assert shared(corpus, corpus, other_split="dev", audio=True)["audio"].clips == 0
    assert shared(corpus, corpus, other_split="test", audio=True)["audio"].clips == 1


def test_audio_that_cannot_be_read_is_like_no_other(tmp_path: Path) -> None:
    corpus = release(tmp_path / "en", train=[("1.mp3", "a", "b")], test=[("2.mp3", "c", "d")])
    found = shared(corpus, corpus, audio=True)["audio"]
    assert (found.clips, found.of, found.other_of) == (0, 0, 0)


def test_the_same_in_json_names_all(
    tone_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared.json"
    found = shared(tone_corpus, tone_corpus, other_split="validated", out=str(out))
    output = {row["kind"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
    assert output["clip"]["shared"] == found["clip"].shared
    assert len(found["clip"].shared) == 24
    assert "24 of 24 (100.0%)" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"shared\.json exists already: remove it, or name"):
        shared(tone_corpus, tone_corpus, out=str(out))


def test_each_side_may_be_laid_out_otherwise(tone_corpus: Path, tmp_path: Path) -> None:
    row = {"path": "a.wav", "text": "ONE"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = DataConfig(layout=("common_voice", "manifest"), language=("en", "zh"))
    assert shared(tone_corpus, tmp_path, data=data)["plain sentence"].other_of == 1
