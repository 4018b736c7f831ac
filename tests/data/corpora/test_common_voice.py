"""Mozilla Common Voice's folders, in any release."""

from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora import common_voice
from data.corpora.common_voice import read
from data.errors import InputError
from data.utterance import Utterance

# the columns of releases 1, 7, 13 and 17, which those after it kept
OLD = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
MIDDLE = f"{OLD}\tlocale\tsegment"
LATER = OLD.replace("accent", "accents\tvariant\tlocale\tsegment")
NEW = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t"
    "accents\tvariant\tlocale\tsegment"
)


def corpus(folder: Path, table: str, durations: str = "") -> Path:
    """Write train.tsv, and clip_durations.tsv where there is one."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_text(table, encoding="utf-8")
    if durations:
        (folder / "clip_durations.tsv").write_text(durations, encoding="utf-8")
    return folder


def rows(folder: Path) -> list[Utterance]:
    """Return the training split."""
    return list(read(DataConfig(), str(folder), "train"))


def test_a_release_of_today_has_lengths_and_languages(tmp_path: Path) -> None:
    line = "ann\ta.mp3\tid\t零一\t\t2\t0\t\t\t\t\tzh-TW\t"
    durations = "clip\tduration[ms]\na.mp3\t1234\nunused.mp3\t5\n"
    (u,) = rows(corpus(tmp_path / "zh-TW", f"{NEW}\n{line}\n", durations))
    assert u == Utterance(
        id="zh-TW/a.mp3",
        audio=str(tmp_path / "zh-TW" / "clips" / "a.mp3"),
        text="零一",
        seconds=1.234,
        language="zh",
        speaker="ann",
    )


def test_old_releases_name_clips_without_mp3_and_do_not_say_their_language(tmp_path: Path) -> None:
    (u,) = rows(corpus(tmp_path / "sv-SE", f"{OLD}\nann\tabc\tett\t2\t0\t\t\tother\n"))
    assert (u.id, u.seconds, u.language) == ("sv-SE/abc.mp3", 0.0, "sv")
    assert u.audio.endswith("/clips/abc.mp3")


@pytest.mark.parametrize("columns", [OLD, MIDDLE, LATER, NEW, MIDDLE.replace("accent", "accents")])
def test_any_releases_columns_are_read(columns: str, tmp_path: Path) -> None:
    names = columns.split("\t")
    values = {"path": "a.mp3", "sentence": "one", "locale": "en", "client_id": "ann"}
    line = "\t".join(values.get(name, "") for name in names)
    (u,) = rows(corpus(tmp_path / "en", f"{columns}\n{line}\n"))
    assert (u.text, u.language, u.speaker) == ("one", "en", "ann")


@pytest.mark.parametrize("columns", [OLD, NEW])
def test_what_is_known_of_a_speaker_is_kept_and_what_is_not_costs_nothing(
    columns: str, tmp_path: Path
) -> None:
    names = columns.split("\t")
    summary = {"age": "twenties", "gender": "female", "accent": "Kent", "accents": "Kent"}
    lines = [
        "\t".join({"path": f"{n}.mp3", "sentence": "one", **each}.get(name, "") for name in names)
        for n, each in enumerate((summary, {}))
    ]
    known, unknown = rows(corpus(tmp_path / "en", "\n".join([columns, *lines]) + "\n"))
    assert (known.age, known.gender, known.accent) == ("twenties", "female", "Kent")
    assert (unknown.age, unknown.gender, unknown.accent) == (None, None, None)
    assert unknown.to_json().keys() == {"id", "audio", "text", "language"}


@pytest.mark.parametrize("split", ["dev", "validated", "other", "invalidated"])
def test_any_table_of_clips_is_a_split(split: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", f"{NEW}\n")
    table = folder / f"{split}.tsv"
    table.write_text(f"{NEW}\nann\ta.mp3\tid\tone\t\t0\t0\t\t\t\t\ten\t\n")
    assert [u.text for u in read(DataConfig(), str(folder), split)] == ["one"]


def test_tables_that_are_no_splits_are_not_named_as_such(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "", "clip\tduration[ms]\n")
    for name in ("reported", "validated_sentences", "unvalidated_sentences"):
        (folder / f"{name}.tsv").touch()
    with pytest.raises(InputError, match=r"dev\.tsv: no such file; splits of .*/en: train$"):
        list(read(DataConfig(), str(folder), "dev"))


def test_lengths_are_read_once_for_all_splits_and_forgotten(
    tone_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Path] = []
    durations = common_voice._durations
    monkeypatch.setattr(
        common_voice, "_durations", lambda table: tables.append(table) or durations(table)
    )
    splits = ("train", "dev")
    before = [list(read(DataConfig(), str(tone_corpus), split)) for split in splits]
    assert len(tables) == 2
    for _ in range(2):
        with common_voice.cache_durations():
            assert [list(read(DataConfig(), str(tone_corpus), s)) for s in splits] == before
    assert len(tables) == 4


def test_quotes_are_text(tmp_path: Path) -> None:
    texts = ['"Open', 'He said "no".', '"All of it"', '""', "it's", 'a "b']
    table = "path\tsentence\n" + "".join(f"{n}.mp3\t{text}\n" for n, text in enumerate(texts))
    assert [u.text for u in rows(corpus(tmp_path / "en", table))] == texts


def test_blanks_around_a_sentence_go_and_a_short_row_is_an_empty_text(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "path\tsentence\na.mp3\t one  two \nb.mp3\n")
    assert [u.text for u in rows(folder)] == ["one  two", ""]
    assert rows(folder)[0].speaker is None


def test_a_nul_damages_its_row_alone(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "path\tsentence\na.mp3\to\0ne\nb\0.mp3\ttwo\nc.mp3\tthree\n")
    assert [u.text for u in rows(folder)] == ["o\ufffdne", "two", "three"]
    assert [Path(u.audio).name for u in rows(folder)] == ["a.mp3", "b\ufffd.mp3", "c.mp3"]


def test_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "train.tsv").write_bytes(b"path\tsentence\r\na.mp3\tone\r\n")
    assert [u.text for u in rows(tmp_path / "en")] == ["one"]


def test_a_byte_order_mark_hides_no_column(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "\ufeffclient_id\tpath\tsentence\nann\ta.mp3\tone\n")
    assert [u.speaker for u in rows(folder)] == ["ann"]  # else speakers of dev leak in silence


def test_the_tone_corpus_is_read_whole(tone_corpus: Path) -> None:
    for split, count in {"train": 24, "dev": 6, "test": 6, "validated": 36}.items():
        found = list(read(DataConfig(), str(tone_corpus), split))
        assert len({u.id for u in found}) == count
        assert all(Path(u.audio).is_file() and u.seconds > 0.5 and u.text for u in found)
        assert {u.language for u in found} == {"en"}


def test_a_missing_folder_raises_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; set data.corpus to a Common Voice"):
        rows(tmp_path / "no")


def test_a_missing_split_names_those_there_are(tone_corpus: Path) -> None:
    with pytest.raises(InputError, match=r"other\.tsv: no such file; splits of .*dev, .*test"):
        list(read(DataConfig(), str(tone_corpus), "other"))


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "path\ttext\na.mp3\tone\n")
    with pytest.raises(InputError, match=r"no column 'sentence'; it has \['path', 'text'\]"):
        rows(folder)
    with pytest.raises(InputError, match="no column 'path'"):
        rows(corpus(tmp_path / "nothing", ""))


def test_a_table_that_is_not_utf8_raises_an_input_error(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "")
    (folder / "train.tsv").write_bytes("path\tsentence\na.mp3\tnaïve\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.tsv: not a table in UTF-8"):
        rows(folder)


def test_a_table_with_an_endless_cell_raises_an_input_error(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "path\tsentence\na.mp3\t" + "x" * 200_000 + "\n")
    with pytest.raises(InputError, match="field larger than field limit"):
        rows(folder)


def test_lengths_that_are_no_numbers_raise_an_input_error(tmp_path: Path) -> None:
    durations = "clip\tduration[ms]\na.mp3\t1.5 s\n"
    folder = corpus(tmp_path / "en", "path\tsentence\na.mp3\tone\n", durations)
    with pytest.raises(InputError, match=r"clip_durations\.tsv.*1\.5 s"):
        rows(folder)


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "en", "path\tsentence\n../../a.mp3\tone\n")
    with pytest.raises(InputError, match=r"train\.tsv.*paths in a corpus must stay in it"):
        rows(folder)
