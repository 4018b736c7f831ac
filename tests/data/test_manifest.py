"""A run's manifest: read, measured, screened and frozen."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.config import DataConfig
from data.errors import InputError
from data.labels import LabelEncoder
from data.manifest import Manifest, build_manifest, read_held_out, scan_cache_path
from data.screening import durations as scanning
from data.screening import training_set as selection
from data.screening.filters import count_reasons
from data.utterance import Drop, Utterance
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


@pytest.fixture
def build(
    tone_corpus: Path, label_encoder: LabelEncoder, tmp_path: Path
) -> Callable[..., tuple[Manifest, list[Drop]]]:
    """Return a function that builds the tone corpus's manifest, with other knobs."""

    def made(*corpora: Path, **knobs: Any) -> tuple[Manifest, list[Drop]]:
        names = tuple(str(folder) for folder in corpora or (tone_corpus,))
        config = DataConfig(**{"corpus": names, "workers": 2, **knobs})
        return build_manifest(config, label_encoder, tmp_path / "cache.jsonl", show=False)

    return made


Build = Callable[..., tuple[Manifest, list[Drop]]]


def edit(table: Path, old: str, new: str) -> None:
    """Replace a text in a file."""
    content = table.read_text(encoding="utf-8")
    assert old in content
    table.write_text(content.replace(old, new, 1), encoding="utf-8")


def test_a_sound_corpus_is_kept_whole_with_lengths_and_tokens(
    build: Build, label_encoder: LabelEncoder
) -> None:
    manifest, drops = build()
    assert [len(part) for part in (manifest.train, manifest.dev, manifest.test)] == [24, 6, 6]
    assert drops == []
    for u in manifest.train + manifest.dev + manifest.test:
        assert 0.5 < u.seconds < 5
        assert u.tokens == len(label_encoder.encode(u.text, "en"))


def test_a_split_of_none_is_not_read(build: Build, copied: Path) -> None:
    (copied / "dev.tsv").unlink()
    manifest, _ = build(copied, dev_split=None, test_split=None)
    assert (manifest.dev, manifest.test) == ([], [])
    with pytest.raises(InputError, match=r"dev\.tsv: no such file"):
        build(copied)


def test_validated_is_without_clips_sentences_and_speakers_of_dev_and_test(
    build: Build, copied: Path
) -> None:
    # speakers of the tone corpus: train-0 to 2, dev-0 to 2, test-0 to 2
    edit(
        copied / "validated.tsv",
        "train-1\tcommon_voice_en_train_001",
        "dev-0\tcommon_voice_en_train_001",
    )
    manifest, drops = build(copied, train_split="validated")
    held = manifest.dev + manifest.test
    assert {u.id for u in manifest.train}.isdisjoint(u.id for u in held)
    assert {u.text for u in manifest.train}.isdisjoint(u.text for u in held)
    assert {u.speaker for u in manifest.train}.isdisjoint(u.speaker for u in held)
    reasons = count_reasons(drops)["validated"]
    assert reasons["clip of dev or test"] == 12
    assert reasons["speaker of dev or test"] == 1
    assert len(manifest.train) == 36 - sum(reasons.values())
    assert manifest.train


@pytest.mark.parametrize("split", ["other", "train+other", "invalidated"])
def test_unvalidated_splits_are_without_sentences_and_speakers_of_dev_and_test(
    split: str, build: Build, copied: Path
) -> None:
    header, *rows = (copied / "validated.tsv").read_text(encoding="utf-8").splitlines()
    for name in ("other", "invalidated"):
        table = "\n".join([header, *rows]) + "\n"
        (copied / f"{name}.tsv").write_text(table, encoding="utf-8")
    manifest, _ = build(copied, train_split=split)
    held = manifest.dev + manifest.test
    assert manifest.train
    assert {u.text for u in manifest.train}.isdisjoint(u.text for u in held)
    assert {u.speaker for u in manifest.train}.isdisjoint(u.speaker for u in held)


def test_no_clip_is_both_trained_on_and_scored(build: Build) -> None:
    # train+dev is a common wish, and dev chooses the best model unless dev_split says otherwise
    with suppress(InputError):  # to refuse is as good as to leave them out
        manifest, _ = build(train_split="train+dev")
        assert {u.id for u in manifest.train}.isdisjoint(u.id for u in manifest.dev)


def test_overlapping_splits_are_counted_once(build: Build) -> None:
    manifest, drops = build(train_split="train+train", dev_split=None)
    assert len(manifest.train) == 24
    assert count_reasons(drops) == {"train+train": {"listed twice": 24}}


def test_equal_paths_of_two_corpora_are_two_utterances(
    build: Build, tmp_path: Path, write_clip: WriteClip
) -> None:
    folders = [tmp_path / "read", tmp_path / "summary"]
    for folder in folders:
        write_clip(folder / "0.wav", 1.0)
        (folder / "train.jsonl").write_text('{"path": "0.wav", "text": "one", "language": "en"}\n')
    manifest, drops = build(*folders, dev_split=None, test_split=None)
    assert drops == []
    assert len({u.id for u in manifest.train}) == 2


def test_everything_broken_is_dropped_by_reason_and_the_rest_is_kept(
    build: Build, copied: Path, write_clip: WriteClip
) -> None:
    clip = [copied / "clips" / f"common_voice_en_train_{n:03d}.mp3" for n in range(24)]
    clip[0].write_bytes(b"")
    clip[1].write_bytes(clip[1].read_bytes()[: clip[1].stat().st_size // 2])
    write_clip(clip[2], 31.0, 16_000)
    write_clip(clip[3], 0.05, 16_000)  # clip_durations.tsv says more
    edit(copied / "train.tsv", f"{clip[4].name}\t\t", f"{clip[4].name}\t\t<|en|> ")
    edit(copied / "train.tsv", f"{clip[5].name}\t\t", f"{clip[5].name}\t\t{'one ' * 500}")
    clip[6].unlink()
    manifest, drops = build(copied, missing_audio="drop")
    assert len(manifest.train) == 17
    assert count_reasons(drops)["train"] == {
        "truncated": 2,
        "unreadable": 1,
        "missing": 1,
        "special token in text": 1,
        "too long": 1,
        "label too long": 1,
    }


@pytest.mark.parametrize("check", ["decode", "header"])
def test_missing_audio_is_an_error_unless_it_is_said_not_to_be(
    check: str, build: Build, copied: Path
) -> None:
    (copied / "clips" / "common_voice_en_train_003.mp3").unlink()
    with pytest.raises(InputError, match=r"train_003\.mp3: no such file, though train lists it"):
        build(copied, scan=check)
    manifest, drops = build(copied, scan=check, missing_audio="drop")
    assert len(manifest.train) == 23
    assert count_reasons(drops) == {"train": {"missing": 1}}


def test_missing_audio_of_a_scored_split_is_an_error_too(build: Build, copied: Path) -> None:
    (copied / "clips" / "common_voice_en_test_003.mp3").unlink()
    with pytest.raises(InputError, match=r"test_003\.mp3: no such file, though test lists it"):
        build(copied)


def test_scored_splits_keep_what_training_could_not_use(
    build: Build, copied: Path, write_clip: WriteClip
) -> None:
    write_clip(copied / "clips" / "common_voice_en_test_000.mp3", 31.0, 16_000)
    edit(copied / "test.tsv", "_test_001.mp3\t\t", "_test_001.mp3\t\t" + "one " * 500)
    manifest, drops = build(copied)
    assert len(manifest.test) == 6
    assert drops == []
    assert max(u.seconds for u in manifest.test) == pytest.approx(31, abs=0.1)


def test_nothing_left_raises_an_input_error_with_the_reasons(build: Build, copied: Path) -> None:
    with pytest.raises(InputError, match="all clips of split 'train' were dropped: 24 too long"):
        build(max_seconds=0.5)
    for clip in (copied / "clips").glob("*_dev_*"):
        clip.write_bytes(b"")
    with pytest.raises(InputError, match="all clips of split 'dev' were dropped: 6 unreadable"):
        build(copied)
    for clip in (copied / "clips").glob("*_train_*"):
        clip.write_bytes(b"")
    with pytest.raises(InputError, match="all clips of split 'train' were dropped: 24 unreadable"):
        build(copied, dev_split=None)


def test_an_empty_split_raises_an_input_error(build: Build, copied: Path) -> None:
    header = (copied / "train.tsv").read_text(encoding="utf-8").splitlines()[0]
    (copied / "train.tsv").write_text(header + "\n")
    with pytest.raises(InputError, match="split 'train' is empty"):
        build(copied)


@pytest.mark.parametrize("together", [1, 5, 24, 100])
def test_tokens_are_those_of_the_labels_however_many_are_counted_together(
    build: Build, label_encoder: LabelEncoder, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(selection, "TEXTS_PER_CALL", together)
    train = build()[0].train
    assert len(train) == 24
    for u in train:
        assert u.tokens == len(label_encoder.encode(u.text, u.language or "", u.task))


def test_a_missing_or_unsupported_language_raises_an_input_error(
    build: Build, tmp_path: Path, write_clip: WriteClip
) -> None:
    folder = tmp_path / "mine"
    write_clip(folder / "0.wav", 1.0)
    (folder / "train.jsonl").write_text('{"path": "0.wav", "text": "one"}\n')
    alone: dict[str, Any] = {"dev_split": None, "test_split": None}
    with pytest.raises(
        InputError, match=r"split 'train' does not name its language: set data.lang"
    ):
        build(folder, **alone)
    with pytest.raises(InputError, match="the model does not support language 'xx'"):
        build(folder, language=("xx",), **alone)
    manifest, _ = build(folder, language=("zh",), **alone)
    assert manifest.train[0].language == "zh"


def test_a_second_start_opens_no_clip(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build()

    def refuse(audio: str, check: str) -> None:
        raise AssertionError(f"{audio} was measured again")

    monkeypatch.setattr(scanning, "measure", refuse)
    assert build() == first


def test_a_manifest_comes_back_as_it_was_written(build: Build, tmp_path: Path) -> None:
    manifest, _ = build()
    manifest.test[0] = replace(manifest.test[0], text="", start=0.5, end=1.5, speaker=None)
    written = manifest.write(tmp_path / "manifest.jsonl")
    for again in (written, Manifest.read(tmp_path / "manifest.jsonl")):
        assert replace(again, train=list(again.train)) == manifest
        assert again.fingerprint() == manifest.fingerprint()
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 24 + ["dev"] * 6 + ["test"] * 6


def test_the_fingerprint_changes_with_what_is_trained_on_and_nothing_else() -> None:
    u = Utterance(id="a", audio="/here/a.mp3", text="one", seconds=2.0, tokens=6, language="en")
    same = Manifest(train=[replace(u, audio="/there/a.mp3")], dev=[u])
    assert same.fingerprint() == Manifest(train=[u]).fingerprint()
    others: list[dict[str, Any]] = [
        {"id": "b"},
        {"seconds": 2.5},
        {"tokens": 7},
        {"text": "two"},
        {"language": "zh"},
    ]
    prints = {Manifest(train=[replace(u, **o)]).fingerprint() for o in ({}, *others)}
    prints |= {Manifest(train=[u, u]).fingerprint(), Manifest(train=[]).fingerprint()}
    assert len(prints) == 8


def test_an_english_only_model_needs_no_language(
    tmp_path: Path, label_encoder: LabelEncoder, write_clip: WriteClip
) -> None:
    write_clip(tmp_path / "0.wav", 1.0)
    (tmp_path / "test.jsonl").write_text('{"path": "0.wav", "text": "one"}\n')
    english = LabelEncoder(label_encoder.tokenizer, max_tokens=448, multilingual=False)
    config = DataConfig(corpus=(str(tmp_path),))
    kept, drops = read_held_out(config, english, tmp_path / "cache.jsonl", split="test", show=False)
    assert ([u.language for u in kept], drops) == (["en"], [])


def test_every_set_of_corpora_has_a_cache_of_its_own(tmp_path: Path) -> None:
    configs = [DataConfig(corpus=names) for names in (("a",), ("b",), ("a", "b"))]
    caches = {scan_cache_path(tmp_path, config) for config in configs}
    assert len(caches) == 3
    assert {cache.parent for cache in caches} == {tmp_path / ".scan"}
    assert scan_cache_path(tmp_path, replace(configs[0], scan="header")) in caches
