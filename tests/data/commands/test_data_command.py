"""`python -m data` reports errors in one line, also those of espeak-ng."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.__main__ import COMMANDS, main
from data.commands import demo_corpus as demo
from data.errors import InputError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run `python -m data` in this process."""
    monkeypatch.setattr(sys, "argv", ["data", *arguments])
    main()


def test_an_existing_folder_exits_with_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, "demo-corpus", str(tmp_path))
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "exists already" in err


def test_no_command_names_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch)
    assert left.value.code == 2
    assert "give one of demo-corpus, inspect" in capsys.readouterr().err


def test_help_names_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--help")
    out = capsys.readouterr().out
    lines = out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines[: len(COMMANDS)]] == list(COMMANDS)


@pytest.mark.parametrize(
    "arguments", [("inspect", "no/"), ("leakage", "no/", "no/"), ("split", "no/")]
)
def test_a_corpus_that_is_not_there_exits_with_one_line_and_status_2(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *arguments)
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no/: no such folder or file" in err
    assert not list(tmp_path.iterdir())


def test_a_corpus_is_inspected_split_and_compared(
    tone_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "inspect", str(tone_corpus), "--split", "train", "--data.workers=0")
    held_out = ("--source", "validated", "--held_out", "dev", "test")
    run(monkeypatch, "split", str(tone_corpus), *held_out, "--out=splits")
    run(monkeypatch, "leakage", "splits", "splits")
    name = f"{tone_corpus.parent.name}-en"
    assert (tmp_path / "runs" / "inspect" / name / "inspection.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "splits"}
    output = capsys.readouterr().out
    assert f"to train: --data.corpus splits --data.audio_root {tone_corpus}" in output
    assert "0 of 6 (0.0%)" in output


def test_the_demo_prints_the_folders_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(folder: Path, *, clips: int, seed: int) -> list[Path]:
        assert (clips, seed) == (8, 3)
        return [folder / "en", folder / "zh-TW"]

    monkeypatch.setattr("data.__main__.make_corpus", made)
    run(monkeypatch, "demo-corpus", str(tmp_path / "new"), "--clips=8", "--seed=3")
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'en'}\n{tmp_path / 'new' / 'zh-TW'}\n"


def test_a_synthesiser_without_its_data_raises_an_input_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loader: Any = pytest.importorskip("espeakng_loader")
    (tmp_path / "empty").mkdir()
    broken = SimpleNamespace(
        get_library_path=loader.get_library_path, get_data_path=lambda: str(tmp_path / "empty")
    )
    with pytest.raises(InputError, match=r"espeak-ng cannot load its data in .*empty"):
        demo._Synthesizer(broken, tmp_path, seed=0)
    capfd.readouterr()  # what the library itself says


def test_a_voice_that_says_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader: Any = pytest.importorskip("espeakng_loader")
    speaker = demo._Synthesizer(loader, tmp_path, seed=0)
    monkeypatch.setitem(demo.LANGUAGES, "xx", ("no-such-voice", ("one",), " "))
    silent = demo._Clip("xx", "train", "a.mp3", "f1", ["one"], {})
    with pytest.raises(
        RuntimeError, match=r"espeak-ng's voice no-such-voice\+f1 produced no audio"
    ):
        speaker.synthesize(silent)
