"""The index of a manifest spares parsing its rows, and never matches another manifest."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.lazy_manifest import LazyUtterances, indices_of
from data.manifest import Manifest, ensure_index
from data.manifest_index import index_is_sound, index_path, read_index
from data.utterance import Utterance

ROWS = [
    Utterance(
        id=f"é{number}",
        audio=f"/{number}.wav",
        text="嗨 " * (number % 5),
        seconds=1 + number / 7,
        language=("en", "zh", None)[number % 3],
        corpus="ab"[number % 2],
        tokens=number,
        prompt_tokens=number % 4,
    )
    for number in range(300)
]
MANIFEST = Manifest(train=ROWS, dev=ROWS[:3], test=ROWS[7:9])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a manifest that was frozen."""
    path = tmp_path / "manifest.jsonl"
    MANIFEST.write(path)
    return path


def spoil(path: Path, but: int = -1) -> None:
    """Make all but one row of train unreadable, which only decoding shows."""
    stamp, lines = path.stat(), path.read_bytes().splitlines()
    for number in {*range(len(ROWS))} - {but}:
        lines[number] = b"#" * len(lines[number])
    path.write_bytes(b"\n".join(lines) + b"\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def columns(manifest: Manifest) -> list[Any]:
    """Return the columns of a manifest."""
    assert isinstance(manifest.train, LazyUtterances)
    columns = manifest.train.columns
    arrays = (columns.seconds, columns.tokens, columns.prompts, columns.kind)
    return [columns.kinds, columns.fingerprint, *(each.tolist() for each in arrays)]


def test_a_start_parses_no_row_that_is_trained_on(path: Path) -> None:
    expected = columns(Manifest.read(path))
    spoil(path)
    again = Manifest.read(path)
    assert columns(again) == expected
    assert (again.dev, again.test) == (MANIFEST.dev, MANIFEST.test)
    assert again.fingerprint() == MANIFEST.fingerprint()


def test_an_id_is_found_without_parsing_other_rows(path: Path) -> None:
    spoil(path, but=41)
    assert indices_of(Manifest.read(path).train, ["é41", "none"]) == [41]
    assert indices_of(ROWS, ["é41", "none", "é3"]) == [3, 41]


def test_a_manifest_from_before_the_index_gets_one(path: Path) -> None:
    expected = columns(Manifest.read(path))
    index_path(path).unlink()
    assert columns(Manifest.read(path)) == expected  # a reader leaves nothing in a run's folder
    assert not index_path(path).exists()
    assert ensure_index(path)
    spoil(path)
    assert columns(Manifest.read(path)) == expected


def test_there_is_no_index_of_a_manifest_that_is_absent(tmp_path: Path) -> None:
    assert not ensure_index(tmp_path / "manifest.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["edited", "longer", "cut", "empty", "older"])
def test_an_index_that_is_not_the_manifests_is_made_anew(path: Path, harm: str) -> None:
    packed = index_path(path).read_bytes()
    text = path.read_text(encoding="utf-8")
    if harm == "edited":  # as long as before
        path.write_text(text.replace('"seconds": 3.0', '"seconds": 4.0'), encoding="utf-8")
    elif harm == "longer":
        Manifest(train=[*ROWS, replace(ROWS[0], id="new")]).write(path)
        index_path(path).write_bytes(packed)
    elif harm == "older":
        index_path(path).write_bytes(packed.replace(b'"version":"2"', b'"version":"1"'))
    else:
        index_path(path).write_bytes(packed[: 1000 if harm == "cut" else 0])
    assert read_index(path) is None
    train = Manifest.read(path).train
    assert isinstance(train, LazyUtterances)
    expected = Manifest(train=list(train))
    assert Manifest.read(path).fingerprint() == expected.fingerprint()
    assert (expected.fingerprint() == MANIFEST.fingerprint()) == (harm not in ("edited", "longer"))
    assert ensure_index(path)
    assert read_index(path) is not None


@pytest.mark.parametrize("harm", ["manifest", "index"])
def test_silent_corruption_is_found_at_the_next_start(path: Path, harm: str) -> None:
    before, told = path.stat(), Manifest.read(path).fingerprint()
    if harm == "manifest":  # of the same size and time, as `rsync -a` leaves it
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"seconds": 3.0', '"seconds": 4.0'), encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        packed = bytearray(index_path(path).read_bytes())
        packed[-1] ^= 1
        index_path(path).write_bytes(packed)
    assert ensure_index(path)
    assert (Manifest.read(path).fingerprint() == told) == (harm == "index")
    assert columns(Manifest.read(path)) == columns(Manifest.read(path))
    assert index_is_sound(path)


def test_an_index_that_a_full_disk_refuses_ends_no_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = columns(Manifest.read(path))
    index_path(path).unlink()

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.manifest_index.write_bytes", refuse)
    assert ensure_index(path)
    assert "could not be written" in capsys.readouterr().out
    assert columns(Manifest.read(path)) == expected
