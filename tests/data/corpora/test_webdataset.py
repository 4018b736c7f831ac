"""WebDataset's tar shards: samples are members with the same key, read without unpacking."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.audio.decode import AudioError, declared_seconds
from data.config import DataConfig
from data.corpora import read, webdataset
from data.errors import InputError
from data.utterance import Utterance

WriteClip = Callable[..., Path]
Files = dict[str, Any]
pytestmark = pytest.mark.usefixtures("cache_home")


def shard(path: Path, files: Files) -> Path:
    """Write a shard; what is not bytes or text becomes JSON. Return its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in files.items():
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path.parent


def rows(folder: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(corpus=(str(folder),), **knobs), split))


def one(tmp_path: Path, files: Files, **knobs: Any) -> Utterance:
    """Return the only utterance of a shard."""
    (u,) = rows(shard(tmp_path / "mine" / "train-000000.tar", {"a.wav": b"", **files}), **knobs)
    return u


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
@pytest.mark.parametrize("kind", webdataset.AUDIO)
def test_a_sample_is_audio_beside_its_text(
    kind: str, suffix: str, tmp_path: Path, write_clip: WriteClip
) -> None:
    plain = "ogg" if kind == "opus" else kind
    clip = write_clip(tmp_path / f"clip.{plain}", 1.0).read_bytes()
    path = tmp_path / "mine" / f"train-000000.{suffix}"
    (u,) = rows(shard(path, {f"a/b.{kind}": clip, "a/b.txt": " one two\n"}))
    assert (u.id, u.text) == (f"mine/train-000000.{suffix}/a/b", "one two")
    assert (u.seconds, u.language, u.speaker) == (0.0, None, None)
    assert declared_seconds(u.audio) == pytest.approx(1.0, abs=0.1)


def test_json_tells_more(tmp_path: Path) -> None:
    summary = {"text": "eins", "language": "de_AT", "speaker": 7, "duration": 2.5, "snr": None}
    u = one(tmp_path, {"a.json": summary})
    assert (u.text, u.language, u.speaker, u.seconds) == ("eins", "de", "7", 2.5)


@pytest.mark.parametrize("column", ["text", "sentence", "transcription"])
def test_the_text_is_found_by_its_usual_names(column: str, tmp_path: Path) -> None:
    assert one(tmp_path, {"a.json": {column: "one"}}).text == "one"


def test_the_users_keys_come_first(tmp_path: Path) -> None:
    summary = {"text": "one", "raw": "uno", "lang": "es", "who": "ann"}
    u = one(
        tmp_path,
        {"a.json": summary, "a.txt": "no"},
        text_column="raw",
        language_column="lang",
        speaker_column="who",
    )
    assert (u.text, u.language, u.speaker) == ("uno", "es", "ann")


def test_txt_comes_before_the_text_of_json(tmp_path: Path) -> None:
    u = one(tmp_path, {"a.json": {"text": "no", "language": "en"}, "a.txt": "yes"})
    assert (u.text, u.language) == ("yes", "en")


@pytest.mark.parametrize("names", [("train-000000.tar", "train-000001.tar"), ("train.tar",)])
@pytest.mark.parametrize("place", ["", "train/"])
def test_shards_are_read_in_order_wherever_they_lie(
    place: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    for name in names:
        folder = shard(tmp_path / "mine" / place / name, {"b.wav": b"", "a.wav": b""})
    shard(folder / ("../dev/0.tar" if place else "train-clean-000000.tar"), {"c.wav": b""})
    ids = [f"mine/{place}{name}/{key}" for name in names for key in "ba"]
    assert [u.id for u in rows(tmp_path / "mine")] == ids


def test_a_folder_is_known_by_numbered_shards(tmp_path: Path) -> None:
    for name in ("a/train-00000-of-00002.tar", "b/dev/000000.tgz", "c/test.tar.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "S0002.tar.gz").touch()  # as in AISHELL
    assert all(webdataset.matches(tmp_path / name) for name in "abc")
    assert not webdataset.matches(tmp_path / "wav")
    assert not webdataset.matches(tmp_path / "c" / "test.tar.gz")


def test_text_without_audio_is_missing_and_audio_without_text_has_none(tmp_path: Path) -> None:
    files = {"a.txt": "one", "b.wav": b"", "c.json": {"text": "two"}, "d.npy": b"", "e": b""}
    found = rows(shard(tmp_path / "mine" / "train-0.tar", files))
    assert {u.id[-1]: u.text for u in found} == {"a": "one", "b": "", "c": "two"}
    for u in (found[0], found[2]):
        with pytest.raises(AudioError, match="missing"):
            declared_seconds(u.audio)


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    folder = shard(tmp_path / "mine" / "train-0.tar", {"a.txt": "one"})
    with tarfile.open(folder / "train-0.tar", "a") as tar:
        entry = tarfile.TarInfo("a.wav")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(AudioError, match="missing"):
        declared_seconds(rows(folder)[0].audio)


def test_what_macos_hides_in_archives_is_no_sample(tmp_path: Path) -> None:
    assert one(tmp_path, {"a.txt": "one", "._a.txt": b"\xff", "._a.wav": b"\0"}).text == "one"


def test_a_null_is_no_text_and_half_a_character_is_a_damaged_one(tmp_path: Path) -> None:
    u = one(tmp_path, {"a.json": '{"text": null, "speaker": null, "seconds": null}'})
    assert (u.text, u.speaker, u.seconds) == ("", None, 0.0)
    assert one(tmp_path, {"a.json": '{"text": "a\\ud83d"}'}).text == "a\ufffd"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"train-000000\.tar/a\.json: not JSON: "),
        ("a.json", "[1]", r"a\.json: expected an object, got \[1\]"),
        (
            "a.json",
            {"words": "x"},
            r"a\.json: no sentence or .*; set data.text_column to one of \['w",
        ),
        ("a.json", {"text": ["x"]}, r"a\.json: text is \['x'\], not a text"),
        ("a.json", {"text": "x", "seconds": "1 s"}, r"a\.json: '1 s' is not a number of seconds"),
        ("a.json", {"text": "x", "duration": -1}, r"a\.json: -1 is not a number of seconds"),
        ("a.json", '{"text": "x", "seconds": NaN}', r"a\.json: nan is not a number of seconds"),
        ("a.txt", "naïve".encode("latin-1"), r"a\.txt: not text in UTF-8"),
    ],
)
def test_what_is_wrong_in_a_sample_raises_an_input_error(
    name: str, content: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        one(tmp_path, {name: content})


def test_a_split_without_shards_raises_an_input_error(tmp_path: Path) -> None:
    folder = shard(tmp_path / "mine" / "train-0.tar", {"a.wav": b""})
    with pytest.raises(
        InputError, match=r"no shards of split 'dev', such as .*; found train-0\.ta"
    ):
        rows(folder, "dev")
    with pytest.raises(InputError, match=r"mine/no: no shards of split 'train', .* found nothing"):
        rows(folder / "no", layout=("webdataset",))


def test_a_shard_that_was_cut_raises_an_input_error(tmp_path: Path) -> None:
    folder = shard(tmp_path / "mine" / "train-0.tar", {"a.wav": b"0" * 50_000, "b.wav": b""})
    os.truncate(folder / "train-0.tar", 30_000)
    with pytest.raises(InputError, match=r"train-0\.tar: cannot be read to its end"):
        rows(folder)
