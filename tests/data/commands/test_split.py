"""`python -m data split`: no speaker and no sentence is in two splits."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import read_jsonl
from data.commands import split as splits
from data.commands.leakage import LeakageConfig, report_leakage
from data.commands.split import split_corpus
from data.commands.split_assign import SplitConfig, divide
from data.config import DataConfig
from data.corpora import read
from data.errors import InputError
from data.utterance import Utterance
from data.writing_systems import plain_text

WriteClip = Callable[..., Path]
PARTS = ("train", "dev", "test")


def clips(count: int = 600, speakers: int = 60, sentences: int = 400) -> list[Utterance]:
    """Return clips of speakers with some sentences in common."""
    draw = random.Random(0)
    return [
        Utterance(
            id=f"{n}",
            audio=f"/corpus/{n}.wav",
            text=f"Sentence {draw.randrange(sentences)}" + draw.choice(("", ".", "!")),
            seconds=draw.uniform(1, 9),
            speaker=f"speaker {draw.randrange(speakers)}",
        )
        for n in range(count)
    ]


def homes(utterances: list[Utterance], **knobs: Any) -> dict[str, str]:
    """Return the split of each clip."""
    parts = divide(utterances, SplitConfig(corpus=("c",), **knobs))
    return {u.id: split for split, part in parts.items() for u in part}


def split(corpus: Path, out: Path, **knobs: Any) -> dict[str, list[dict[str, Any]]]:
    """Split a corpus, and return the rows of each manifest."""
    split_corpus(SplitConfig(corpus=(str(corpus),), out=str(out), **knobs))
    return {part: list(read_jsonl(out / f"{part}.jsonl")) for part in PARTS}


@pytest.fixture
def flat(tmp_path: Path, write_clip: WriteClip) -> Path:
    """Return a corpus without splits: 40 clips of 10 speakers, some with equal sentences."""
    folder = tmp_path / "flat"
    rows = []
    for number, u in enumerate(clips(40, 10, 30)):
        write_clip(folder / "deep" / f"{number}.wav", 0.5 + number / 100)
        rows.append(
            {"path": f"deep/{number}.wav", "text": u.text, "speaker": u.speaker, "age": "teens"}
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_speaker_is_in_one_split() -> None:
    utterances = clips()
    home = homes(utterances, dev=0.1, test=0.1)
    places = {(u.speaker, home[u.id]) for u in utterances}
    assert len(places) == len({u.speaker for u in utterances})
    assert set(home.values()) == set(PARTS)


def test_a_clip_that_is_added_moves_no_other() -> None:
    utterances = clips()
    before = homes(utterances, dev=0.1, test=0.1)
    new = [Utterance(id=f"new {n}", audio="/n", text="new", speaker=f"new {n}") for n in range(99)]
    after = homes([*new, *reversed(utterances)], dev=0.1, test=0.1)
    assert {name: after[name] for name in before} == before


def test_shares_are_about_what_was_asked() -> None:
    utterances = clips(5000, 5000)
    home = list(homes(utterances, dev=0.1, test=0.2).values())
    assert home.count("dev") / 5000 == pytest.approx(0.1, abs=0.02)
    assert home.count("test") / 5000 == pytest.approx(0.2, abs=0.02)


def test_another_seed_divides_otherwise() -> None:
    one, other = (homes(clips(), dev=0.1, test=0.1, seed=seed) for seed in (0, 1))
    assert one != other


def test_hours_are_filled_and_never_passed() -> None:
    utterances = clips()
    home = homes(utterances, unit="hours", dev=0.1, test=0.2)
    for part, asked in (("dev", 0.1), ("test", 0.2)):
        hours = sum(u.seconds for u in utterances if home[u.id] == part) / 3600
        assert 0.8 * asked < hours <= asked
    places = {(u.speaker, home[u.id]) for u in utterances}
    assert len(places) == len({u.speaker for u in utterances})


def test_clips_without_a_speaker_stay_with_those_of_their_sentence() -> None:
    texts = [f"{word}{mark}" for word in map(str, range(200)) for mark in ("", "!", " ?")]
    utterances = [Utterance(id=f"{n}", audio="/a", text=t) for n, t in enumerate(texts)]
    home = homes(utterances, dev=0.1, test=0.1)
    assert len({(plain_text(u.text), home[u.id]) for u in utterances}) == 200


def test_slices_of_a_recording_stay_together_on_any_machine() -> None:
    def slices(folder: str) -> list[Utterance]:
        return [
            Utterance(id=f"{r} {s}", audio=f"{folder}/{r}.wav", text=f"{r} {s}", start=s, end=s + 1)
            for r in range(100)
            for s in range(5)
        ]

    here, there = (homes(slices(folder), dev=0.1, test=0.1) for folder in ("/here", "/there"))
    assert here == there
    assert len({(name.split()[0], part) for name, part in here.items()}) == 100


def test_by_sentence_divides_the_speech_of_one_speaker() -> None:
    one = [Utterance(id=f"{n}", audio="/a", text=f"{n}", speaker="ann") for n in range(300)]
    assert set(homes(one, by="sentence").values()) == set(PARTS)
    with pytest.raises(InputError, match=r"c: divided by speaker, none of 1 groups is in"):
        homes(one)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"dev": 0.0}, "dev must be greater than 0, got 0.0"),
        ({"test": -1.0}, "test must be greater than 0, got -1.0"),
        ({"dev": 0.5, "test": 0.5}, "dev and test are 1 of the speakers together"),
        (
            {"held_out": ("a", "b"), "shared_sentences": True},
            "shared_sentences is for a divided source",
        ),
        ({"held_out": ("test",)}, r"held_out must be dev and test, in this order, got \['test'\]"),
    ],
)
def test_a_division_that_could_not_work_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitConfig(corpus=("c",), **knobs)


def test_no_sentence_and_no_speaker_is_in_two_splits(flat: Path, tmp_path: Path) -> None:
    rows = split(flat, tmp_path / "out", dev=0.2, test=0.2)
    drops = list(read_jsonl(tmp_path / "out" / "drops.jsonl"))
    assert sum(map(len, rows.values())) + len(drops) == 40
    assert {gone["reason"] for gone in drops} <= {"plain sentence of test", "plain sentence of dev"}
    assert drops
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        config = LeakageConfig(
            corpus=str(tmp_path / "out"), other=str(tmp_path / "out"), split=one, other_split=other
        )
        found = report_leakage(config)
        assert all(each.of and not each.shared for each in found)


def test_the_manifests_name_the_audio_that_the_corpus_named(flat: Path, tmp_path: Path) -> None:
    split(flat, tmp_path / "out", dev=0.2, test=0.2)
    whole = {u.id: u for u in read(DataConfig(corpus=(str(flat),)), "train")}
    config = DataConfig(corpus=(str(tmp_path / "out"),), audio_root=(str(flat),))
    found = list(read(config, "train+dev+test"))
    assert {u.split("/")[0] for u in whole} == {"flat"}
    for u in found:
        assert (u.audio, u.text, u.speaker) == (
            whole[u.id].audio,
            whole[u.id].text,
            whole[u.id].speaker,
        )
        assert Path(u.audio).is_file()
        assert u.seconds > 0
        assert u.age == "teens"


def test_the_same_corpus_and_seed_give_the_same_bytes(flat: Path, tmp_path: Path) -> None:
    for name in "ab":
        split(flat, tmp_path / name, dev=0.2, test=0.2)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).glob("*.json*")} for name in "ab"]
    assert files[0] == files[1]
    assert len(files[0]) == 5


def test_what_is_reported_adds_up(flat: Path, tmp_path: Path) -> None:
    rows = split(flat, tmp_path / "out", dev=0.2, test=0.2)
    summary = json.loads((tmp_path / "out" / "splits.json").read_text(encoding="utf-8"))
    assert {each["split"]: each["clips"] for each in summary["splits"]} == {
        part: len(found) for part, found in rows.items()
    }
    figures = [*summary["splits"], *summary["left_out"]]
    assert sum(each["clips"] for each in figures) == 40
    seconds = sum(0.5 + number / 100 for number in range(40))
    assert sum(each["hours"] for each in figures) == pytest.approx(seconds / 3600, abs=3e-4)


def test_validated_is_left_without_what_dev_and_test_hold(
    tone_corpus: Path, tmp_path: Path
) -> None:
    rows = split(tone_corpus, tmp_path / "out", source="validated", held_out=("dev", "test"))
    held = rows["dev"] + rows["test"]
    assert [len(rows["dev"]), len(rows["test"])] == [6, 6]
    for key in ("id", "text", "speaker"):
        assert not {row[key] for row in rows["train"]} & {row[key] for row in held}
    summary = json.loads((tmp_path / "out" / "splits.json").read_text(encoding="utf-8"))
    left = {each["reason"]: each["clips"] for each in summary["left_out"]}
    assert left["clip of dev or test"] == 12
    assert sum(left.values()) + len(rows["train"]) == 36


def test_a_sentence_that_differs_by_a_mark_leaves_train_and_not_dev(
    copied: Path, tmp_path: Path
) -> None:
    train, dev = ((copied / f"{part}.tsv").read_text().splitlines() for part in ("train", "dev"))
    said = dev[1].split("\t")[3]
    cells = train[1].split("\t")
    cells[3] = f"{said.upper()}!"
    (copied / "train.tsv").write_text("\n".join([train[0], "\t".join(cells), *train[2:]]) + "\n")
    same = (copied / "test.tsv").read_text().splitlines()[1].split("\t")
    shutil.copy(copied / "clips" / same[1], copied / "clips" / "x.mp3")
    with (copied / "test.tsv").open("a") as file:
        file.write("\t".join([same[0], "x.mp3", "", f"{said}.", *same[4:]]) + "\n")
    rows = split(copied, tmp_path / "out", held_out=("dev", "test"))
    assert [len(rows["dev"]), len(rows["test"])] == [6, 7]  # they stay as they are
    assert cells[1] not in {Path(row["path"]).name for row in rows["train"]}
    drops = {gone["id"]: gone["reason"] for gone in read_jsonl(tmp_path / "out" / "drops.jsonl")}
    assert drops[f"en/{cells[1]}"] == "plain sentence of test"


def test_a_split_of_which_nothing_is_left_raises_an_input_error(
    tone_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no clip of 'dev' is left in train without those of"):
        split(tone_corpus, tmp_path / "out", source="dev", held_out=("dev", "test"))
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_shared_sentences_may_be_kept(flat: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (flat / "train.jsonl").read_text().splitlines()]
    same = "".join(json.dumps({**row, "text": "one"}) + "\n" for row in rows)
    (flat / "train.jsonl").write_text(same)
    with pytest.raises(InputError, match="or --shared_sentences if the source is divided"):
        split(flat, tmp_path / "out", dev=0.2, test=0.2)
    found = split(flat, tmp_path / "out", dev=0.2, test=0.2, shared_sentences=True)
    assert sum(map(len, found.values())) == 40
    assert not list(read_jsonl(tmp_path / "out" / "drops.jsonl"))


def test_splits_are_not_replaced_without_overwrite(flat: Path, tmp_path: Path) -> None:
    first = split(flat, tmp_path / "out", dev=0.2, test=0.2)
    with pytest.raises(InputError, match=r"out has test\.jsonl already: name another"):
        split(flat, tmp_path / "out", dev=0.2, test=0.2, seed=1)
    assert list(read_jsonl(tmp_path / "out" / "train.jsonl")) == first["train"]
    other = split(flat, tmp_path / "out", dev=0.2, test=0.2, seed=3, overwrite=True)
    assert other != first


def test_missing_audio_is_refused_or_reported(flat: Path, tmp_path: Path) -> None:
    (flat / "deep" / "3.wav").unlink()
    with pytest.raises(InputError, match=r"3\.wav: no such file, though train lists it"):
        split(flat, tmp_path / "out")
    data = DataConfig(scan="header", missing_audio="drop")
    rows = split(flat, tmp_path / "out", dev=0.2, test=0.2, data=data)
    drops = list(read_jsonl(tmp_path / "out" / "drops.jsonl"))
    assert [gone["id"] for gone in drops if gone["reason"] == "missing"] == ["flat/deep/3.wav"]
    assert sum(map(len, rows.values())) + len(drops) == 40


def test_a_split_of_nothing_raises_an_input_error(copied: Path, tmp_path: Path) -> None:
    (copied / "other.tsv").write_text((copied / "train.tsv").read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="split 'other' has no clip with usable audio"):
        split(copied, tmp_path / "out", source="other")


def test_audio_that_is_in_no_file_cannot_be_named(tmp_path: Path, write_clip: WriteClip) -> None:
    import datasets

    sound = write_clip(tmp_path / "a.wav", 1.0).read_bytes()
    audio = [{"bytes": sound, "path": None}] * 90
    rows = datasets.Dataset.from_dict({"audio": audio, "text": [f"{n}" for n in range(90)]})
    rows.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=r"is not a file in .*saved: manifests list files"):
        split(tmp_path / "saved", tmp_path / "out")


def test_corpora_that_share_no_folder_share_no_manifest(tmp_path: Path) -> None:
    config = DataConfig(corpus=("/no/such", f"{tmp_path}"))
    with pytest.raises(InputError, match="have no parent folder in common"):
        splits._root(config)


def test_somebody_elses_table_is_not_replaced(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"has dev\.jsonl already"):
        split(flat, tmp_path)
    assert (tmp_path / "dev.jsonl").read_text() == "mine"
    with pytest.raises(InputError, match="is never written into"):
        split(flat / "train.jsonl", flat, overwrite=True)


def test_a_corpus_is_never_written_into(flat: Path) -> None:
    with pytest.raises(InputError, match="is never written into"):
        split(flat, flat / "splits")
    assert {path.name for path in flat.iterdir()} == {"deep", "train.jsonl"}
