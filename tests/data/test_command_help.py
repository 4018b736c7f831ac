"""`--help` names what people set and every command, and each sentence of it is true to the code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import __main__ as data_main
from data.command_help import parse_command, sentence_of
from data.config_parser import knobs
from eval import __main__ as eval_main
from trainer import __main__ as trainer_main
from trainer.commands.doctor import DoctorConfig
from trainer.commands.find_batch_size import FindBatchSizeConfig
from trainer.commands.plan import PlanConfig
from trainer.commands.publish import ExportConfig
from trainer.commands.tiny_model import TinyModelConfig
from trainer.config import COMMANDS, GROUPS, RECIPES, Config, parse

ROOT = Path(__file__).resolve().parents[2]
TRAINER = (Config, PlanConfig, FindBatchSizeConfig, DoctorConfig, TinyModelConfig, ExportConfig)
OTHERS = (*data_main.COMMANDS.values(), *eval_main.COMMANDS.values())
KINDS = [*TRAINER, eval_main.ScoreCommand, *(kind for kind, _ in OTHERS)]
SENTENCES = sorted({(n, sentence_of(kind, n)) for kind in KINDS for n, _ in knobs(kind)})
POINTER = re.compile(r"\b(?:data|eval|loop|model|optim|checkpoint|log|publish)\.[a-z_]+\b(?!\.)")


def printed(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a call prints before it leaves with status 0."""
    with pytest.raises(SystemExit) as left:
        call()
    assert left.value.code == 0
    return capsys.readouterr().out


def test_every_knob_has_a_whole_sentence() -> None:
    wrong = [
        (name, said)
        for name, said in SENTENCES
        if not re.fullmatch(r"(?:[A-Z]|480 is).*[^.]\.", said) or "  " in said
    ]
    assert len(SENTENCES) > 130
    assert wrong == []


def test_every_document_and_knob_that_help_names_exists() -> None:
    known = {name for name, _ in knobs(Config)}
    for name, said in SENTENCES:
        for path in re.findall(r"\b[\w/-]+\.md\b|README", said):
            assert (ROOT / path).is_file(), (name, path)
        for knob in POINTER.findall(re.sub(r"\S+\.md", "", said)):
            assert knob in known, (name, knob)


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("argument", ["--help", "-h", "--help-all"])
def test_help_fits_the_terminal(
    argument: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(lambda: parse([argument]), capsys).splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line != line.rstrip()] == []


def test_help_shows_some_knobs_and_help_all_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    some = printed(lambda: parse(["--help"]), capsys)
    everything = printed(lambda: parse(["demo.yaml", "--help-all"]), capsys)
    grouped = {name for names in GROUPS.values() for name in names}
    known = {name for name, _ in knobs(Config)}
    listed = re.compile(r"^  --([\w.]+) ", re.MULTILINE)
    assert set(listed.findall(some)) - {"print_config"} == grouped < known
    assert len(grouped) <= 25
    assert set(listed.findall(everything)) == known


def test_help_names_recipes_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(lambda: parse(["--help"]), capsys)
    for recipe in RECIPES.glob("*.yaml"):
        assert recipe.stem in shown
    lines = shown.partition("COMMAND:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert set(COMMANDS) == {"train", *trainer_main.COMMANDS}


def test_a_command_shows_its_own_options_with_type_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = printed(lambda: parse_command(TinyModelConfig, ["--help"], "python -m x"), capsys)
    assert "Usage: python -m x [--OPTION=VALUE ...]" in shown
    assert "  --out TEXT (required)\n      The folder to write." in shown
    assert "  --init_std FLOAT (default: 0.09)" in shown
    kind, _ = data_main.COMMANDS["inspect"]
    shown = printed(lambda: parse_command(kind, ["a", "-h"], "python -m data inspect"), capsys)
    assert "Usage: python -m data inspect CORPUS ... [" in shown
    assert "--hashes {true,false} (default: false)" in shown
    assert "--data." not in shown.replace("--data.*", "")
    every = printed(lambda: parse_command(kind, ["--help-all"], "python -m data inspect"), capsys)
    assert "  --data.max_padding FLOAT (default: 0.04)" in every


@pytest.mark.parametrize(
    ("run", "arguments", "sentence"),
    [
        (trainer_main.run, ["fit", "--help"], "python -m trainer find-batch-size"),
        (trainer_main.run, ["blank"], "python -m trainer tiny-model"),
        (eval_main.main, ["suspects", "runs/a"], "python -m eval label-errors"),
        (data_main.main, ["demo", "folder"], "python -m data demo-corpus"),
    ],
)
def test_the_old_name_of_a_command_is_answered_with_the_new_one(
    run: Callable[[], None],
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as left:
        run()
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"is now {sentence}; use that name" in err


@pytest.mark.parametrize("command", ["publish", "export"])
def test_publish_and_export_show_their_options(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", command, "--help"])
    shown = printed(trainer_main.run, capsys)
    assert f"Usage: python -m trainer {command} RUN" in shown
    assert ("  --out TEXT" in shown) == (command == "export")
    assert "  --publish.precision {fp32,fp16} (default: fp32)" in shown


def test_train_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "train", "demo.yaml", "--print_config", "--seed=7"])
    assert "seed: 7" in printed(trainer_main.run, capsys)
