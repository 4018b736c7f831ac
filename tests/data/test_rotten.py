"""Rotten data: no crash, no hang, every drop named with its file and reason, what is sound used."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data.batch import Batch, Position
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, train_batches
from data.errors import InputError
from data.labels import LabelEncoder
from data.manifest import Manifest, build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.filters import refuse_broken
from data.utterance import Drop
from eval.whisper import load_whisper

RATE = 16_000
TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)  # 2 s
Write = Callable[[Path], None]


def write(
    samples: Any, rate: int = RATE, container: str = "WAV", subtype: str | None = None
) -> Write:
    """Return a function that writes samples in a format, whatever the file's suffix."""

    def writer(path: Path) -> None:
        soundfile.write(path, samples, rate, format=container, subtype=subtype)

    return writer


def text(path: Path) -> None:
    """Write a file that is not audio."""
    path.write_text("<html>404 Not Found</html>\n" * 200, encoding="utf-8")


def half(path: Path) -> None:
    """Write the first half of an mp3, whose header declares its full length."""
    write(TONE, container="MP3")(path)
    os.truncate(path, path.stat().st_size // 2)


def header(**fields: int) -> Write:
    """Return a function that writes a wav of 2 s with changed header values."""
    places = {"channels": slice(22, 24), "rate": slice(24, 28), "block": slice(32, 34)}

    def writer(path: Path) -> None:
        write(TONE)(path)
        content = bytearray(path.read_bytes())
        for name, value in fields.items():
            place = places[name]
            content[place] = value.to_bytes(place.stop - place.start, "little")
        path.write_bytes(content)

    return writer


def forbidden(path: Path) -> None:
    """Write a clip that may not be read."""
    write(TONE)(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@dataclass(frozen=True, kw_only=True)
class Rot:
    """A damaged file, and the reason of its drop; an empty reason: it is used."""

    write: Write = field(default=write(TONE))
    reason: str = ""
    row: dict[str, Any] = field(default_factory=dict)


CHANNELS = np.repeat(TONE[:, None], 8, axis=1)
ROT = {
    "empty.mp3": Rot(write=Path.touch, reason="unreadable"),
    "truncated.mp3": Rot(write=half, reason="truncated"),
    "text.mp3": Rot(write=text, reason="unreadable"),
    "text.wav": Rot(write=text, reason="unreadable"),
    "zeros.flac": Rot(write=lambda path: path.write_bytes(bytes(9999)), reason="unreadable"),
    "no_data.wav": Rot(write=write(TONE[:0]), reason="truncated"),
    "rate_zero.wav": Rot(write=header(rate=0), reason="unreadable"),
    "rate_absurd.wav": Rot(write=header(rate=2**31 - 1), reason="unreadable"),
    "rate_wrong.wav": Rot(write=header(rate=48_000), reason="truncated", row={"seconds": 2.0}),
    "not_a_number.wav": Rot(write=write(TONE * np.nan, subtype="FLOAT"), reason="not a number"),
    "infinite.wav": Rot(write=write(np.full(RATE, np.inf), subtype="FLOAT"), reason="not a number"),
    "silence.wav": Rot(write=write(TONE * 0), reason="silent"),
    "silence.mp3": Rot(write=write(TONE * 0, container="MP3"), reason="silent"),
    "constant.wav": Rot(write=write(TONE * 0 + 0.5), reason="silent"),
    "no_channels.wav": Rot(write=header(channels=0, block=0), reason="unreadable"),
    "many_channels.wav": Rot(write=header(channels=64, block=128), reason="unreadable"),
    "eight_channels.wav": Rot(write=write(CHANNELS)),
    "24_bits.wav": Rot(write=write(TONE, subtype="PCM_24")),
    "192_khz.flac": Rot(write=write(np.repeat(TONE, 12), rate=192_000, container="FLAC")),
    "44101_hz.wav": Rot(write=write(np.repeat(TONE, 3), rate=44_101)),
    "5_ms.wav": Rot(write=write(TONE[: RATE // 200]), reason="too short"),
    "31_s.wav": Rot(write=write(np.tile(TONE, 16)[: 31 * RATE]), reason="too long"),
    "missing.wav": Rot(write=lambda _: None, reason="missing"),
    "folder.wav": Rot(write=Path.mkdir, reason="unreadable"),
    "pipe.wav": Rot(write=os.mkfifo, reason="unreadable"),
    "forbidden.wav": Rot(write=forbidden, reason="unreadable"),
    "loop.wav": Rot(write=lambda path: path.symlink_to(path), reason="unreadable"),
    "slice.wav": Rot(row={"start": 1.5, "end": 9.0}, reason="truncated"),
    "no_text.wav": Rot(row={"text": None}, reason="empty text"),
    "punctuation.wav": Rot(row={"text": "…?! 。"}, reason="no words in text"),
    "nul.wav": Rot(row={"text": "o\0ne"}, reason="damaged text"),
    "token.wav": Rot(row={"text": "<|endoftext|>"}, reason="special token in text"),
    "449_tokens.wav": Rot(row={"text": "zero " * 448}, reason="label too long"),
}


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


class Corpus:
    """A manifest of two sound clips and what else a test puts there."""

    def __init__(self, folder: Path, label_encoder: LabelEncoder) -> None:
        """Write the two clips."""
        self.folder = folder
        self.label_encoder = label_encoder
        self.rows: list[dict[str, Any]] = []
        for name in ("sound_1.wav", "sound_2.wav"):
            self.add(name, write(TONE), {})

    def add(self, name: str, writer: Write, row: dict[str, Any]) -> None:
        """Write a clip and its row."""
        writer(self.folder / name)
        self.rows.append({"id": name, "path": name, "text": "one", "language": "en", **row})

    def build(self, **knobs: Any) -> tuple[Manifest, list[Drop]]:
        """Read, scan and screen."""
        lines = (json.dumps(row) + "\n" for row in self.rows)
        (self.folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        self.config = DataConfig(
            corpus=(str(self.folder),),
            dev_split=None,
            test_split=None,
            missing_audio="drop",
            pad="bucket",
            **{"workers": 0, **knobs},
        )
        cache = self.folder / "cache.jsonl"
        return build_manifest(self.config, self.label_encoder, cache, show=False)

    def train(self, manifest: Manifest) -> list[Batch]:
        """Return an epoch's passes from the real loader."""
        plan = Plan.from_utterances(manifest.train, self.config, seed=0)
        sampler = BucketedBatchSampler(plan, self.config, updates=1)
        passes = train_batches(
            manifest.train, self.config, BatchPreparer(self.label_encoder, 80), sampler
        )
        return list(passes.start(Position(), plan.num_updates(1)))


@pytest.fixture
def corpus(tmp_path: Path, label_encoder: LabelEncoder) -> Corpus:
    """Return an intact corpus of two clips."""
    return Corpus(tmp_path, label_encoder)


def weights(batches: list[Batch]) -> dict[str, int]:
    """Return the target tokens of every clip."""
    return {k: n for b in batches for k, n in zip(b.ids, b.tokens, strict=True)}


@pytest.mark.parametrize("name", ROT)
def test_damage_is_found_by_the_scan_and_reported(name: str, corpus: Corpus) -> None:
    rot = ROT[name]
    corpus.add(name, rot.write, rot.row)
    manifest, drops = corpus.build()
    told = [(drop.split, drop.id, drop.audio, drop.reason) for drop in drops]
    expected = [("train", name, str(corpus.folder / name), rot.reason)]
    assert told == (expected if rot.reason else [])
    kept = {"sound_1.wav", "sound_2.wav", *([] if rot.reason else [name])}
    assert {u.id for u in manifest.train} == kept
    batches = corpus.train(manifest)
    assert not any(batch.drops for batch in batches)
    assert weights(batches).keys() == kept
    assert all(weights(batches).values())


@pytest.mark.parametrize("name", [name for name, rot in ROT.items() if not rot.row.get("text")])
def test_rot_that_only_decoding_finds_costs_its_clip_in_training(name: str, corpus: Corpus) -> None:
    rot = ROT[name]
    corpus.add(name, rot.write, rot.row)
    manifest, drops = corpus.build(scan="header")
    batches = corpus.train(manifest)
    named = {d.id: d.reason for d in [*drops, *(d for b in batches for d in b.drops)]}
    assert named == ({name: rot.reason} if rot.reason else {})
    assert {k for k, tokens in weights(batches).items() if tokens} == {
        "sound_1.wav",
        "sound_2.wav",
    } | ({name} - named.keys())


def test_all_rot_at_once_goes_through_real_workers(corpus: Corpus) -> None:
    for name, rot in ROT.items():
        if name != "forbidden.wav":
            corpus.add(name, rot.write, rot.row)
    here, drops_here = corpus.build()
    (corpus.folder / "cache.jsonl").unlink()
    there, drops_there = corpus.build(workers=2)
    assert (here, drops_here) == (there, drops_there)
    assert len(drops_here) == sum(bool(rot.reason) for rot in ROT.values()) - 1
    assert all(weights(corpus.train(there)).values())


def vanish(path: Path) -> None:
    """Leave nothing there."""
    path.unlink()


def become(writer: Write) -> Write:
    """Return a function that replaces a clip by something else."""

    def change(path: Path) -> None:
        path.unlink()
        writer(path)

    return change


AFTERWARDS: dict[str, tuple[Write, str]] = {
    "vanished": (vanish, "missing"),
    "emptied": (lambda path: os.truncate(path, 0), "unreadable"),
    "a folder": (become(Path.mkdir), "unreadable"),
    "a pipe": (become(os.mkfifo), "unreadable"),
    "cut": (become(write(TONE[:RATE])), "truncated"),
    "grown": (become(write(np.tile(TONE, 16))), "too much"),
    "not a number": (become(write(TONE * np.nan, subtype="FLOAT")), "not a number"),
    "silent": (become(write(TONE * 0)), "silent"),
}


@pytest.mark.parametrize("workers", [0, 1])
def test_rot_that_comes_after_the_scan_leaves_the_plan_as_it_was(
    workers: int, corpus: Corpus
) -> None:
    for name in AFTERWARDS:
        corpus.add(f"{name}.wav", write(TONE), {})
    manifest, _ = corpus.build(workers=workers, update_clips=3)
    before = corpus.train(manifest)
    for name, (change, _) in AFTERWARDS.items():
        change(corpus.folder / f"{name}.wav")
    after = corpus.train(manifest)
    assert [(b.ids, b.position, b.next_position, b.features.shape) for b in after] == [
        (b.ids, b.position, b.next_position, b.features.shape) for b in before
    ]
    named = {drop.id: drop.reason for b in after for drop in b.drops}
    assert named == {f"{name}.wav": reason for name, (_, reason) in AFTERWARDS.items()}
    assert {k for k, tokens in weights(after).items() if tokens} == {"sound_1.wav", "sound_2.wav"}


def test_a_corpus_that_is_mostly_rotten_is_refused_with_its_drops(
    corpus: Corpus, tmp_path: Path
) -> None:
    for number in range(3):
        corpus.add(f"{number}.wav", text, {})
    manifest, drops = corpus.build()
    rows = len(manifest.train) + len(drops)
    with pytest.raises(
        InputError, match=r"3 of 5 clips of train .*\(3\) unreadable.*max_broken_share=0.6"
    ):
        refuse_broken(drops, rows, corpus.config, tmp_path / "drops.jsonl")


def test_a_table_with_holes_and_open_quotes_loses_those_rows_alone(
    copied: Path, label_encoder: LabelEncoder, tmp_path: Path
) -> None:
    lines = (copied / "train.tsv").read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines]
    cells[1][3] = "one\0two"
    cells[2][1] = "common\0voice.mp3"
    cells[3][3] = '"one'
    cells[4] = cells[4][:2]  # cut off
    cells[5] = [*cells[5], "one", "too", "many"]
    cells[6][3] = '"?"'
    table = "\n".join("\t".join(row) for row in cells)
    (copied / "train.tsv").write_text(table, encoding="utf-8")
    config = DataConfig(corpus=(str(copied),), dev_split=None, test_split=None, workers=0)
    with pytest.raises(InputError, match=r"common\ufffdvoice\.mp3: no such file, though train"):
        build_manifest(config, label_encoder, tmp_path / "cache.jsonl", show=False)
    config = DataConfig(
        corpus=(str(copied),), dev_split=None, test_split=None, workers=0, missing_audio="drop"
    )
    manifest, drops = build_manifest(config, label_encoder, tmp_path / "cache.jsonl", show=False)
    assert [drop.reason for drop in drops] == [
        "missing",
        "damaged text",
        "empty text",
        "no words in text",
    ]
    assert len(manifest.train) == len(lines) - 1 - len(drops)
    assert '"one' in {u.text for u in manifest.train}


def test_a_link_out_of_the_corpus_raises_an_input_error(copied: Path, tmp_path: Path) -> None:
    clip = next((copied / "clips").glob("*train*"))
    shutil.move(clip, tmp_path / "elsewhere.mp3")
    clip.symlink_to(tmp_path / "elsewhere.mp3")
    with pytest.raises(InputError, match=r"train\.tsv: .* is a link that leads out of .*/clips"):
        list(read(DataConfig(corpus=(str(copied),)), "train"))
