"""`python -m eval MODEL CORPUS` and `compare`: files, console output and errors."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

import eval.__main__ as command
from tests.conftest import make_tone_corpus
from tests.forked import run_module

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ("--eval.max_length=12", "--data.workers=0", "--eval.non_speech=False")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, with an Accelerator that no other test shares."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(before)


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs the command in this process."""

    def run(*arguments: str | Path) -> Path:
        out = tmp_path / "runs" / "eval"
        monkeypatch.setattr(sys, "argv", ["eval", *map(str, arguments), f"--out={out}", *QUICK])
        command.main()
        return out

    return run


def as_a_person_does(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "eval", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_writes_scores_and_texts(
    blank_model: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    done = as_a_person_does(blank_model, tone_corpus, f"--out={tmp_path / 'eval'}", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "WER" in done.stdout
    assert "whisper-english (whisper-normalizer" in done.stdout
    folder = tmp_path / "eval" / "blank-en-test"
    told = json.loads((folder / "scores.json").read_text())
    assert told["languages"]["en"]["clips"] == 6
    assert told["model"] == str(blank_model)
    assert told["left_out"] == {}
    lines = (folder / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["id"] for line in lines} == {
        f"en/common_voice_en_test_{n:03d}.mp3" for n in range(6)
    }
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "clips/common_voice_en_test_000.mp3" in page


def test_the_page_of_an_evaluation_is_made_again(tmp_path: Path) -> None:
    done = run_module("eval", "report", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'scores.json'}: no such file: give")
    (tmp_path / "scores.json").write_text('{"languages": {}, "long": {}, "corpora": {}}')
    (tmp_path / "utterances.jsonl").touch()
    done = run_module("eval", "report", tmp_path, "--audio", "none")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


def test_a_wrong_path_is_one_sentence_and_status_2(blank_model: Path, tmp_path: Path) -> None:
    done = run_module("eval", blank_model, tmp_path / "no", f"--out={tmp_path / 'eval'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'no'}: no such folder or file; set data.cor")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "eval").exists()


def test_a_wrong_model_is_one_sentence(
    evaluate: Callable[..., Path], tone_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        evaluate("./no-such-model", tone_corpus)
    assert left.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_split_and_language_are_the_users(
    evaluate: Callable[..., Path], blank_model: Path, tone_corpus: Path
) -> None:
    out = evaluate(blank_model, tone_corpus, "--split=dev", "--language=zh")
    told = json.loads((out / "blank-en-dev" / "scores.json").read_text())
    assert told["languages"].keys() == {"zh"}
    assert told["languages"]["zh"]["metric"] == "CER"


def test_left_out_clips_are_reported(
    evaluate: Callable[..., Path],
    blank_model: Path,
    copied: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (copied / "clips" / "common_voice_en_test_000.mp3").write_bytes(b"")
    out = evaluate(blank_model, copied)
    told = json.loads((out / "blank-en-test" / "scores.json").read_text())
    assert told["left_out"] == {"unreadable": 1}
    assert told["languages"]["en"]["clips"] == 5
    assert "left out: {'unreadable': 1}" in capsys.readouterr().out


def test_two_models_of_one_name_do_not_overwrite_each_other(
    evaluate: Callable[..., Path], blank_model: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    # a run's model lies in runs/NAME/model: all have one name
    for run in ("first", "second"):
        shutil.copytree(blank_model, tmp_path / run / "model")
        out = evaluate(tmp_path / run / "model", tone_corpus)
    models = {json.loads(path.read_text())["model"] for path in out.rglob("scores.json")}
    assert models == {str(tmp_path / run / "model") for run in ("first", "second")}


def test_two_models_are_compared_and_so_are_the_folders_they_left(
    evaluate: Callable[..., Path],
    blank_model: Path,
    tone_corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = evaluate("compare", blank_model, blank_model, tone_corpus, "--eval.normalizer=basic")
    folders = [out / f"blank-{side}-en-test" for side in "ab"]  # one name would be one folder
    written = {"report.html", "scores.json", "utterances.jsonl"}
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == written
    told = json.loads((out / "blank-a-vs-blank-b-en-test" / "compare.json").read_text())
    assert (told["a"], told["b"], told["only_a"]) == (str(blank_model), str(blank_model), 0)
    assert told["languages"]["en"]["clips"] == told["languages"]["en"]["equal"] == 6
    assert told["languages"]["en"]["normalizer"].startswith("whisper-basic")
    shown = capsys.readouterr().out
    assert "no difference can be shown: +0.0 points (+0.0 to +0.0); B has the lower WER" in shown
    evaluate("compare", *folders, "--eval.normalizer=basic")
    (again,) = out.glob("*blank-a-en-test-vs-*blank-b-en-test/compare.json")
    assert json.loads(again.read_text())["languages"] == told["languages"]
    assert capsys.readouterr().out.count("no difference can be shown") == 1


def test_comparing_missing_folders_is_an_input_error(
    evaluate: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        evaluate("compare", tmp_path / "a", tmp_path / "b")
    assert left.value.code == 2
    assert "utterances.jsonl: no such file; name two folders" in capsys.readouterr().err


def test_help_names_the_commands(
    evaluate: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("--help")
    shown = capsys.readouterr().out
    lines = shown.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines[: len(command.COMMANDS)]] == list(command.COMMANDS)
    assert "--help-all" in shown


@pytest.mark.parametrize(
    "case",
    [
        ({"is_multilingual": False}, "zh-TW", "was trained only on en, but split test contains zh"),
        ({"is_multilingual": False}, "en", ""),
        ({"language": "chinese"}, "en", "was fine-tuned for zh, but split test contains en"),
        ({"language": "<|zh|>"}, "zh-TW", ""),
        ({}, "zh-TW", ""),
    ],
)
def test_a_corpus_in_another_language_than_the_models_is_warned_about(
    case: tuple[dict[str, Any], str, str],
    evaluate: Callable[..., Path],
    blank_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, locale, told = case
    model = Path(shutil.copytree(blank_model, tmp_path / "model"))
    path = model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    evaluate(model, make_tone_corpus(tmp_path / locale, locale=locale, splits={"test": 1}))
    shown = capsys.readouterr().out
    assert shown.count("warning: ") == bool(told)
    assert told in shown


def test_the_model_is_moved_to_where_the_accelerator_computes(
    evaluate: Callable[..., Path],
    blank_model: Path,
    tone_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # "meta" stands for a GPU, which the machine of the tests need not have
    gpu = SimpleNamespace(device=torch.device("meta"), is_main_process=True)
    seen: list[str] = []

    def stop(**parts: Any) -> None:
        seen.append(parts["whisper"].model.device.type)
        sys.exit(0)

    monkeypatch.setattr(command, "build_evaluation_accelerator", lambda _: gpu)
    monkeypatch.setattr(command, "Evaluator", stop)
    with pytest.raises(SystemExit):
        evaluate(blank_model, tone_corpus)
    assert seen == ["meta"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can compute in fp16")
def test_fp16_on_a_cpu_is_refused(
    evaluate: Callable[..., Path],
    blank_model: Path,
    tone_corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        evaluate(blank_model, tone_corpus, "--precision=fp16")
    assert left.value.code == 2
    assert "fp16 needs a GPU" in capsys.readouterr().err
