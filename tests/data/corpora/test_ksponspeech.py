"""KsponSpeech: audio without a header, texts in CP949 or UTF-8, and marks in the texts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.audio.decode import declared_seconds, load_audio, measured_seconds
from data.config import DataConfig
from data.corpora.ksponspeech import RULES, read
from data.corpora.transcript_rules import apply
from data.errors import InputError
from data.utterance import Utterance
from tests.layouts import KOREAN, RATE, ksponspeech, ksponspeech_texts, tone, write, write_tone


def rows(corpus: Path, split: str = "train", **knobs: Any) -> list[Utterance]:
    """Return a split."""
    return list(read(DataConfig(**knobs), str(corpus), split))


def spelled(text: str) -> str:
    """Return a text after the rules that keep the spelling."""
    return apply(text, RULES["spelling"])[0]


def test_a_clip_has_its_length_by_the_size_of_its_file(tmp_path: Path) -> None:
    found = rows(ksponspeech(tmp_path / "Kspon"))
    assert [u.seconds for u in found] == [2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    for u in found:
        assert u.seconds == measured_seconds(u.audio) == declared_seconds(u.audio)
    assert found[0] == Utterance(
        id="Kspon/KsponSpeech_000001",
        audio=str(tmp_path / "Kspon/KsponSpeech_01/KsponSpeech_0001/KsponSpeech_000001.pcm"),
        text="그 그래서 갔어",
        seconds=2.0,
        language="ko",
        rules=("noise marks b/ l/ o/ n/ u/ removed", "+ of repeated words removed"),
    )


def test_pcm_is_16_kilohertz_of_16_bits_little_endian(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "a.pcm", 1.0)
    heard = load_audio(Utterance(id="a", audio=str(audio), text=""))
    assert torch.allclose(heard, torch.from_numpy(tone(1.0)).float(), atol=2**-15)
    part = load_audio(Utterance(id="a", audio=str(audio), text="", start=0.25, end=0.5))
    assert torch.equal(part, heard[RATE // 4 : RATE // 2])


def test_half_a_sample_at_the_end_is_no_fault(tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    audio = Path(rows(corpus)[1].audio)
    audio.write_bytes(audio.read_bytes() + b"\x01")
    assert rows(corpus)[1].seconds == measured_seconds(str(audio)) == 1.0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_the_encoding_of_a_list_is_found(encoding: str, tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    script = corpus / "scripts" / "train.trn"
    before = rows(corpus)
    write(script, script.read_text(encoding="utf-8"), encoding=encoding)
    assert rows(corpus) == before


def test_a_list_in_another_encoding_raises_an_input_error(tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    (corpus / "scripts" / "train.trn").write_bytes(b"a.pcm :: \xff\xff\xff")
    with pytest.raises(InputError, match=r"train\.trn: not text in UTF-8 or CP949"):
        rows(corpus)


def test_a_line_without_its_divider_raises_an_input_error(tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    write(corpus / "scripts" / "train.trn", "KsponSpeech_01/a.pcm : text")
    with pytest.raises(InputError, match=r"train\.trn, line 1: expected PATH\.pcm :: TEXT"):
        rows(corpus)


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    write(corpus / "scripts" / "train.trn", "../a.pcm :: text")
    with pytest.raises(InputError, match="paths in a corpus must stay in it"):
        rows(corpus)


def test_lists_and_texts_say_the_same(tmp_path: Path) -> None:
    listed = ksponspeech(tmp_path / "listed" / "K")
    paired = ksponspeech_texts(tmp_path / "paired" / "K")
    by_id = {u.id: u for u in rows(listed) + rows(listed, "dev")}
    for u in rows(paired):
        other = by_id.pop(u.id)
        assert (u.text, u.rules, u.seconds) == (other.text, other.rules, other.seconds)
    assert by_id == {}


@pytest.mark.parametrize("place", ["", "scripts", "KsponSpeech_scripts"])
def test_lists_lie_in_the_folder_or_in_one_for_them(place: str, tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    before = rows(corpus)
    (corpus / place).mkdir(exist_ok=True)
    (corpus / "scripts" / "train.trn").rename(corpus / place / "train.trn")
    assert rows(corpus) == before


@pytest.mark.parametrize("on_disk", ["KsponSpeech_eval/eval_clean", "eval_clean"])
def test_the_folder_before_evaluation_paths_may_be_missing(on_disk: str, tmp_path: Path) -> None:
    audio = write_tone(tmp_path / on_disk / "KsponSpeech_E00001.pcm")
    line = "KsponSpeech_eval/eval_clean/KsponSpeech_E00001.pcm :: 네"
    write(tmp_path / "eval_clean.trn", line)
    (u,) = rows(tmp_path, "eval_clean")
    assert (u.audio, u.seconds) == (str(audio), 1.0)


def test_audio_that_is_not_there_is_named_as_it_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "train.trn", "KsponSpeech_01/KsponSpeech_0001/KsponSpeech_000001.pcm :: 네")
    (u,) = rows(tmp_path)
    assert u.audio.endswith("/KsponSpeech_01/KsponSpeech_0001/KsponSpeech_000001.pcm")
    assert u.seconds == 0


def test_without_lists_what_is_not_paired_is_never_silent(tmp_path: Path) -> None:
    corpus = ksponspeech_texts(tmp_path)
    folder = corpus / "KsponSpeech_01" / "KsponSpeech_0001"
    (folder / "KsponSpeech_000001.txt").unlink()
    (folder / "KsponSpeech_000002.txt").write_bytes(b"\xff\xff\xff")
    (folder / "KsponSpeech_000003.txt").unlink()
    (folder / "KsponSpeech_000003.txt").symlink_to("nothing")
    (folder / "KsponSpeech_000004.pcm").unlink()
    write(corpus / "README.txt", "not a transcript")
    first, second, third, fourth, *rest = rows(corpus)
    faults = [u.fault for u in (first, second, third)]
    assert faults == ["no transcript", "text in an unknown encoding", "text cannot be read"]
    assert (fourth.fault, Path(fourth.audio).exists(), len(rest)) == ("", False, 4)


def test_an_id_that_is_listed_twice_is_yielded_twice_and_counted_later(tmp_path: Path) -> None:
    corpus = ksponspeech(tmp_path)
    script = corpus / "scripts" / "train.trn"
    write(script, script.read_text(encoding="utf-8") * 2)
    assert len(rows(corpus)) == 2 * len({u.id for u in rows(corpus)})


@pytest.mark.parametrize(
    ("text", "spelling", "pronunciation"),
    [
        ("(70%)/(칠 십 퍼센트) 확률", "70% 확률", "칠 십 퍼센트 확률"),
        ("(100%)(백 프로)", "100%", "백 프로"),  # a slash is missing, as in some lines
        ("(1/2)/(이분의 일)이야", "1/2이야", "이분의 일이야"),
        ("(C++)/(씨 플러스 플러스) 해", "C++ 해", "씨 플러스 플러스 해"),
        ("(b)/(비) 반 (KBS)/(케이비에스)", "b 반 KBS", "비 반 케이비에스"),
        ("b/ 아/ 모+ (7%)/(칠 프로)이라니 n/", "아 모 7%이라니", "아 모 칠 프로이라니"),
    ],
)
def test_a_knob_says_which_of_two_transcripts_stays(
    text: str, spelling: str, pronunciation: str, tmp_path: Path
) -> None:
    corpus = ksponspeech(tmp_path)
    name = "KsponSpeech_01/KsponSpeech_0001/KsponSpeech_000001.pcm"
    write(corpus / "scripts" / "train.trn", f"{name} :: {text}")
    assert [u.text for u in rows(corpus)] == [spelling]
    assert [u.text for u in rows(corpus, spelling="pronunciation")] == [pronunciation]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("b/ 네 l/ o/ n/ u/", "네"),
        ("o/n/ 네", "네"),
        ("아/ 그래", "아 그래"),
        ("음/.", "음."),
        ("그+ 그래", "그 그래"),
        ("아/+ 그래+", "아 그래"),
        ("*그거 바*", "그거 바"),
        ("네   네", "네 네"),
        ("네.  네?", "네. 네?"),
        ("A/S 센터", "A/S 센터"),
        ("1/2", "1/2"),
    ],
)
def test_marks_go_and_words_stay(text: str, clean: str) -> None:
    assert spelled(text) == clean


def test_each_rule_that_changed_something_is_named() -> None:
    names = {apply(text, RULES["spelling"])[1] for text in ("아/", "아  아", "바*", "그+", "o/ 네")}
    assert {len(each) for each in names} == {1}
    assert len(names) == 5
    assert apply("그래.", RULES["spelling"])[1] == ()
    assert len({apply(text, RULES["spelling"])[1] for text in KOREAN}) == 3
