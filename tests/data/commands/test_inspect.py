"""`python -m data inspect` reports on a corpus without changing it."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data.atomic_files import read_jsonl
from data.commands import inspect_survey as survey_module
from data.commands.inspect import inspect
from data.commands.inspect_outliers import MIN_CLIPS, find_suspicious, speaking_rates
from data.commands.inspect_survey import InspectConfig, Survey
from data.commands.inspect_tables import formats
from data.config import DataConfig
from data.errors import InputError
from data.labels import LabelEncoder
from data.manifest import build_manifest
from data.pages.tables import draw_lengths, length_counts
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]
HOSTILE = "<script>alert(1)</script> \x1b[2J [red]one"


@pytest.fixture(scope="module")
def labels(blank_model: Path) -> LabelEncoder:
    """Return the LabelEncoder of a small model."""
    return load_whisper(str(blank_model)).labels()


def surveyed(corpus: Path, cache: Path, **knobs: Any) -> tuple[Survey, Counter[tuple[str, str]]]:
    """Survey a corpus; return the survey and the drops."""
    survey = Survey(InspectConfig(corpus=(str(corpus),), **knobs), cache / "scan.jsonl")
    return survey, Counter((gone.split, gone.reason) for gone in survey.read())


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and the modification time of every file."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


def table(folder: Path, *rows: tuple[str, str, float], name: str = "train") -> Path:
    """Write a manifest of ids, texts and durations, without audio files."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("path", "text", "seconds")
    lines = [json.dumps(dict(zip(keys, row, strict=True)) | {"language": "en"}) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def usual(count: int = MIN_CLIPS) -> list[tuple[str, str, float]]:
    """Return clips of one speaking rate: 0.5 s, plus 0.1 s per letter."""
    return [(f"{n}.wav", "a" * (5 + n % 20), 0.5 + 0.1 * (5 + n % 20)) for n in range(count)]


def test_every_clip_that_is_listed_is_kept_or_left_out(tone_corpus: Path, tmp_path: Path) -> None:
    survey, gone = surveyed(tone_corpus, tmp_path, split=("validated", "dev", "test"))
    kept = survey.columns.numbers("kept") == 1
    for split, listed in survey.listed.items():
        left = sum(count for (of, _), count in gone.items() if of == split)
        assert listed == left + int((kept & survey.columns.where("split", split)).sum())
    assert survey.listed == {"validated": 36, "dev": 6, "test": 6}
    assert gone == survey.left_out
    assert gone["validated", "clip of dev or test"] == 12


def test_what_is_left_out_is_what_training_leaves_out(
    copied: Path, tmp_path: Path, labels: LabelEncoder
) -> None:
    rows = (copied / "train.tsv").read_text(encoding="utf-8").splitlines()
    clips = [row.split("\t")[1] for row in rows[1:]]
    (copied / "clips" / clips[0]).write_bytes(b"no audio")
    rows[2] = rows[2].replace(rows[2].split("\t")[3], "…")
    rows[3] = rows[3].replace(rows[3].split("\t")[3], "<|en|>")
    rows.append(rows[4])
    (copied / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = DataConfig(corpus=(str(copied),), workers=0, min_seconds=1.5)
    _, drops = build_manifest(config, labels, tmp_path / "other.jsonl", show=False)
    _, gone = surveyed(copied, tmp_path, data=config)
    assert gone == Counter((drop.split, drop.reason) for drop in drops)
    reasons = {"unreadable", "no words in text", "special token in text", "listed twice"}
    assert {reason for _, reason in gone} == reasons | {"too short"}


def test_audio_that_is_missing_is_counted_and_ends_nothing(copied: Path, tmp_path: Path) -> None:
    for clip in sorted((copied / "clips").glob("*_train_*"))[:3]:
        clip.unlink()
    for check in ("header", "decode"):
        survey, gone = surveyed(copied, tmp_path, scan=check)
        assert gone == {("train", "missing"): 3}
        assert len(survey.columns) == 33


def test_hours_are_the_sum_of_the_clips(tone_corpus: Path, tmp_path: Path) -> None:
    clips = tone_corpus / "clips"
    seconds = sum(soundfile.info(path).duration for path in clips.iterdir())
    survey, _ = surveyed(tone_corpus, tmp_path)
    assert survey.columns.numbers("seconds").sum() == pytest.approx(seconds)


def test_the_bars_of_the_histogram_are_the_clips() -> None:
    seconds = np.array([0.0, 0.99, 1.0, 29.99, 30.0, 31.0, 7200.0])
    counts = length_counts(seconds)
    assert sum(counts) == len(seconds)
    assert (counts[0], counts[1], counts[29], counts[30]) == (2, 1, 1, 3)
    shown = list(draw_lengths(counts).columns[1].cells)
    assert sum(int(str(cell)) for cell in shown) == len(seconds)


def test_it_makes_no_difference_how_many_clips_are_held_at_a_time(
    tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gone = surveyed(tone_corpus, tmp_path, split=("validated", "test"))
    monkeypatch.setattr(survey_module, "CHUNK", 5)
    parts, left = surveyed(tone_corpus, tmp_path, split=("validated", "test"))
    assert gone == left
    for name in ("row", "kept", "seconds", "letters", "text", "plain"):
        assert np.array_equal(whole.columns.numbers(name), parts.columns.numbers(name))


def test_a_clip_is_found_again_by_its_number(tone_corpus: Path, tmp_path: Path) -> None:
    survey, _ = surveyed(tone_corpus, tmp_path, split=("validated", "test"))
    again = survey.read_again(range(len(survey.columns)))
    assert sorted(again) == list(range(len(survey.columns)))
    assert [u.seconds for _, u in sorted(again.items())] == list(survey.columns.numbers("seconds"))
    hashes = [hash(u.text) for _, u in sorted(again.items())]
    assert hashes == list(survey.columns.numbers("text"))


def test_no_audio_is_read_with_check_none(tmp_path: Path) -> None:
    corpus = table(tmp_path / "m", *usual())
    survey, gone = surveyed(corpus, tmp_path, scan="none")
    assert not gone
    assert survey.columns.numbers("seconds").sum() == pytest.approx(sum(s for _, _, s in usual()))
    page = inspect(InspectConfig(corpus=(str(corpus),), scan="none", out=str(tmp_path / "out")))
    assert "<audio" not in page.read_text(encoding="utf-8")
    assert not (tmp_path / "out" / ".scan").exists()


def test_an_unknown_duration_needs_a_check(tmp_path: Path) -> None:
    corpus = table(tmp_path / "m", ("a.wav", "one", 0.0))
    with pytest.raises(InputError, match=r"a\.wav: train has no duration for it: set check"):
        surveyed(corpus, tmp_path, scan="none")


def test_hashes_need_a_check() -> None:
    with pytest.raises(InputError, match="hashes reads every clip, but scan is none"):
        InspectConfig(corpus=("a",), hashes=True, scan="none")


@pytest.mark.parametrize(
    ("text", "seconds", "reason"),
    [
        ("a" * 60, 2.0, "too much text"),
        ("aaaaa", 9.0, "too little text"),
        ("привет мир", 1.5, "another script"),
        ("… !", 1.5, "no words"),
        ("aa\ufffdaaaa", 1.1, "damaged text"),
    ],
)
def test_a_clip_that_is_not_like_the_others_is_suspicious(
    text: str, seconds: float, reason: str, tmp_path: Path
) -> None:
    corpus = table(tmp_path / "m", *usual(200), ("odd.wav", text, seconds))
    survey, _ = surveyed(corpus, tmp_path, scan="none")
    found = list(find_suspicious(survey.columns, speaking_rates(survey.columns), survey.characters))
    assert [(each.clip, each.reason) for each in found] == [(200, reason)]


def test_nothing_is_said_of_the_pace_of_a_few_clips(tmp_path: Path) -> None:
    corpus = table(tmp_path / "m", *usual(MIN_CLIPS - 2), ("odd.wav", "a" * 60, 1.0))
    survey, _ = surveyed(corpus, tmp_path, scan="none")
    assert speaking_rates(survey.columns) == []


@pytest.mark.parametrize(("odd", "message"), [(2, ["Han, simplified"] * 2), (20, [])])
def test_a_kind_of_han_is_suspicious_where_it_is_rare(
    odd: int, message: list[str], tmp_path: Path
) -> None:
    texts = ["發展"] * (100 - odd) + ["发展"] * odd
    corpus = table(tmp_path / "m", *((f"{n}.wav", text, 1.0) for n, text in enumerate(texts)))
    survey, _ = surveyed(corpus, tmp_path, scan="none", language=("zh",))
    found = find_suspicious(survey.columns, [], survey.characters)
    assert [each.detail for each in found] == message


def test_a_tokenizer_counts_the_tokens_of_texts_alone(
    tone_corpus: Path, blank_model: Path, labels: LabelEncoder, tmp_path: Path
) -> None:
    survey, _ = surveyed(tone_corpus, tmp_path, model=str(blank_model))
    clips = survey.read_again(range(len(survey.columns)))
    ids = [labels.tokenizer(u.text, add_special_tokens=False)["input_ids"] for u in clips.values()]
    assert survey.columns.numbers("tokens").sum() == sum(map(len, ids)) > 0
    assert {rate.unit for rate in speaking_rates(survey.columns)} == {"tokens"}


def test_a_tokenizer_that_is_not_there_raises_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model '.*no': its tokenizer cannot be loaded"):
        surveyed(tmp_path, tmp_path, model=str(tmp_path / "no"))


def test_the_same_audio_under_two_names_is_found(copied: Path, tmp_path: Path) -> None:
    one, other = sorted((copied / "clips").glob("*_train_*"))[:2]
    shutil.copy(one, other)
    survey, _ = surveyed(copied, tmp_path, hashes=True)
    hashes = survey.columns.numbers("audio")
    contents = {path.read_bytes() for path in (copied / "clips").iterdir()}
    assert len(np.unique(hashes)) == len(contents) < len(hashes) == 36


def test_a_split_that_was_not_requested_may_be_missing(tmp_path: Path) -> None:
    corpus = table(tmp_path / "m", *usual())
    survey, _ = surveyed(corpus, tmp_path, scan="none")
    assert survey.listed == {"train": MIN_CLIPS}
    assert set(survey.absent) == {"dev", "test"}
    with pytest.raises(InputError, match=r"dev\.jsonl: no such file"):
        surveyed(corpus, tmp_path, scan="none", split=("train", "dev"))


def test_a_corpus_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such folder or file"):
        inspect(InspectConfig(corpus=(str(tmp_path / "no"),), out=str(out)))
    assert not out.exists()


@pytest.mark.parametrize("place", [".", "clips", "runs/inspect"])
def test_nothing_is_written_into_a_corpus(place: str, copied: Path) -> None:
    before = contents(copied)
    with pytest.raises(InputError, match="is never written into: name another folder with --out"):
        inspect(InspectConfig(corpus=(str(copied),), out=str(copied / place)))
    assert contents(copied) == before


def test_the_corpus_stays_as_it_is_and_the_page_plays(copied: Path, tmp_path: Path) -> None:
    before = contents(copied)
    config = InspectConfig(corpus=(str(copied),), out=str(tmp_path / "out"), hashes=True)
    page = inspect(config).read_text(encoding="utf-8")
    assert contents(copied) == before
    sounds = re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', page)
    assert len(sounds) >= 12
    assert page.count("src=") == len(sounds)
    for sound in sounds:
        info = soundfile.info(io.BytesIO(base64.b64decode(sound)))
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert 0.5 < info.duration < 5
    assert "<svg" in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"inspection.html", "drops.jsonl", "suspicious.jsonl", ".scan"}


def test_a_text_without_end_is_shown_in_part(
    tmp_path: Path, write_clip: WriteClip, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = table(tmp_path / "m", *((f"{n}.wav", "word " * 100_000, 0) for n in range(2)))
    for number in range(2):
        write_clip(corpus / f"{number}.wav", 1.0)
    page = inspect(InspectConfig(corpus=(str(corpus),), out=str(tmp_path / "out")))
    assert page.stat().st_size < 200_000
    output = capsys.readouterr().out
    assert "… word" not in output
    assert len(output) < 10_000


def test_a_seed_draws_the_same_clips(tone_corpus: Path, tmp_path: Path) -> None:
    pages = [
        inspect(InspectConfig(corpus=(str(tone_corpus),), out=str(tmp_path / name), seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    clips = [re.findall(r"<td>(en/\S+\.mp3)<td>drawn", page.read_text()) for page in pages]
    assert len(clips[0]) == 12
    assert clips[0] == clips[1] != clips[2]


def test_a_hostile_text_neither_runs_nor_steers_the_terminal(
    tmp_path: Path, write_clip: WriteClip, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = table(tmp_path / "<b>m", ("a.wav", HOSTILE, 0), ("\x1b[2J.wav", "<|en|>\x1b[2J", 0))
    for name in ("a", "\x1b[2J"):
        write_clip(corpus / f"{name}.wav", 1.0)
    inspect(InspectConfig(corpus=(str(corpus),), out=str(tmp_path / "out")))
    page = (tmp_path / "out" / "inspection.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>m" not in page
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "special token in text" in output


def test_nothing_is_cut_off_in_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    kinds = {"發展": 1234, "发展": 20, "發展发展": 3, "人口": 1000, "abc": 1, "！": 2}
    rows = [(f"{i}{text}.wav", text, 1.0) for text, n in kinds.items() for i in range(n)]
    corpus = table(tmp_path / "m", *rows)
    file = corpus / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace('"en"', '"zh"'), encoding="utf-8")
    inspect(InspectConfig(corpus=(str(corpus),), scan="none", out=str(tmp_path / "out")))
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if not line.startswith("page with audio")]
    assert max(map(len, lines)) <= 80
    assert {line[-1] for line in lines if line[:1] in set("┏┡┃│└")} == set("┓┩┃│┘")
    for output in (
        "1,000 either",
        "3 mixed",
        "20 simplified",
        "1,234",
        "traditional",
        "of letters",
    ):
        assert output in " ".join(shown.replace("│", " ").split())


def test_what_is_wrong_is_listed_with_its_file(tmp_path: Path) -> None:
    odd = [("fast.wav", "a" * 60, 2.0), ("empty.wav", "", 1.5), ("long.wav", "a" * 300, 31.0)]
    corpus = table(tmp_path / "m", *usual(200), *odd)
    inspect(InspectConfig(corpus=(str(corpus),), scan="none", out=str(tmp_path / "out")))
    drops = list(read_jsonl(tmp_path / "out" / "drops.jsonl"))
    assert [(row["reason"], Path(row["audio"]).name) for row in drops] == [
        ("empty text", "empty.wav"),
        ("too long", "long.wav"),
    ]
    wrong = list(read_jsonl(tmp_path / "out" / "suspicious.jsonl"))
    assert [(row["reason"], row["audio"]) for row in wrong] == [
        ("too much text", str(corpus / "fast.wav")),
        ("no words", str(corpus / "empty.wav")),
    ]


def test_a_corpus_of_which_nothing_can_be_used_is_reported_too(tmp_path: Path) -> None:
    corpus = table(tmp_path / "m", *usual())  # its audio is not there
    page = inspect(InspectConfig(corpus=(str(corpus),), out=str(tmp_path / "out")))
    assert f'missing<td>m/0.wav: no such file<td class="n">{MIN_CLIPS}' in page.read_text()


def test_the_formats_of_a_sample_are_reported(tone_corpus: Path, tmp_path: Path) -> None:
    survey, _ = surveyed(tone_corpus, tmp_path)
    clips = list(survey.read_again(range(len(survey.columns))).values())
    whole = formats(clips, len(clips))
    assert [tuple(row) for row in whole.rows] == [("MP3", "48,000 Hz", "1", "36", "100.00%")]
    assert whole.note == ""
    assert formats(clips[:9], len(clips)).note == "Of 9 clips drawn from 36."
    assert formats([], len(clips)).note == "No file was read."
