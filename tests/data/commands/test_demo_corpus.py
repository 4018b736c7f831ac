"""The demo corpus: splits share no voice, tables match the audio, a seed gives equal bytes."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from data.commands import demo_corpus as demo
from data.errors import InputError

pytest.importorskip("espeakng_loader")

SPLITS = ("train", "dev", "test")
SMALL: dict[str, Any] = {"clips": 100, "dev_clips": 6, "test_clips": 40, "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the language folders of a small corpus."""
    return demo.make_corpus(tmp_path_factory.mktemp("demo") / "corpus", **SMALL)


def rows(table: Path) -> list[dict[str, str]]:
    """Return a table's rows."""
    with table.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def contents(folders: list[Path]) -> dict[Path, bytes]:
    """Return every file's bytes by its path in the corpus."""
    root = folders[0].parent
    return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_both_languages_have_as_many_clips(corpus: list[Path]) -> None:
    assert [folder.name for folder in corpus] == ["en", "zh-TW"]
    for folder in corpus:
        counts = [len(rows(folder / f"{split}.tsv")) for split in SPLITS]
        assert counts == [50, 3, 20]
        assert len(rows(folder / "validated.tsv")) == sum(counts)
        assert {row["locale"] for row in rows(folder / "validated.tsv")} == {folder.name}


def test_voices_of_one_split_are_in_no_other_split(corpus: list[Path]) -> None:
    voices = {split: set[str]() for split in SPLITS}
    for folder in corpus:
        for split in SPLITS:
            voices[split] |= {row["client_id"] for row in rows(folder / f"{split}.tsv")}
    assert voices["test"].isdisjoint(voices["train"] | voices["dev"])
    assert voices["dev"].isdisjoint(voices["train"])
    assert len(voices["test"]) >= 6


def test_every_row_has_audio_as_long_as_the_table_says(corpus: list[Path]) -> None:
    for folder in corpus:
        table = rows(folder / "clip_durations.tsv")
        lengths = {row["clip"]: int(row["duration[ms]"]) for row in table}
        paths = [row["path"] for split in SPLITS for row in rows(folder / f"{split}.tsv")]
        assert sorted(paths) == sorted(lengths) == sorted(p.name for p in folder.glob("clips/*"))
        for path in paths:
            samples, rate = soundfile.read(folder / "clips" / path)
            assert samples.ndim == 1
            assert samples.std() > 0.005, f"{path} is silent"
            assert 1000 * len(samples) / rate == pytest.approx(lengths[path], rel=0.02)


def test_texts_hold_one_to_five_numbers(corpus: list[Path]) -> None:
    english, mandarin = (
        [row["sentence"] for row in rows(folder / "validated.tsv")] for folder in corpus
    )
    for numbers in [sentence.split(" ") for sentence in english] + [
        list(text) for text in mandarin
    ]:
        assert 1 <= len(numbers) <= 5
    assert {number for text in english for number in text.split(" ")} == set(demo.ENGLISH)
    assert set("".join(mandarin)) == set("零一二三四五六七八九")


def test_same_seed_gives_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    small: Any = {"clips": 24, "dev_clips": 2, "test_clips": 2, "progress": False}
    first = contents(demo.make_corpus(tmp_path / "first", **small))
    assert contents(demo.make_corpus(tmp_path / "again", **small)) == first
    other = contents(demo.make_corpus(tmp_path / "other", seed=1, **small))
    assert other.keys() == first.keys()
    assert other != first


def test_all_voices_exist_and_say_their_gender_in_common_voices_words(tmp_path: Path) -> None:
    import espeakng_loader

    speaker = demo._Synthesizer(espeakng_loader, tmp_path, seed=0)
    voices = [voice for split in SPLITS for voice in demo.VOICES[split].split(",")]
    assert len(voices) == len(set(voices))
    assert {speaker.gender(v) for v in voices} == {"male_masculine", "female_feminine", ""}


def test_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InputError, match="exists already: remove it, or name another folder"):
        demo.make_corpus(tmp_path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_too_few_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each split needs 2"):
        demo.make_corpus(tmp_path / "corpus", test_clips=1)


def test_failure_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo.soundfile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        demo.make_corpus(tmp_path / "corpus", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_long_data_path_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MAX_DATA_PATH_BYTES", 0)
    folders = demo.make_corpus(
        tmp_path / "corpus", clips=2, dev_clips=2, test_clips=2, progress=False
    )
    assert all((folder / "validated.tsv").exists() for folder in folders)


def test_missing_synthesiser_raises_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'whisper-loop\[demo\]'"):
        demo.make_corpus(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []
