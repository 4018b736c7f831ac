"""An input error prints one sentence, sets the exit status, and loses no data."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


def message_of(trainer: Any, run: Path, *extra: str) -> str:
    """Return the one line that a refused run prints."""
    done = trainer(run, *extra, check=False)
    assert done.returncode == 2, done.output
    assert "Traceback" not in done.output
    lines = [line for line in done.output.splitlines() if line.strip()]
    assert len([line for line in lines if line.startswith("error: ")]) == 1, done.output
    return lines[-1]


def test_missing_corpus_folder(trainer: Any, tmp_path: Path) -> None:
    where = tmp_path / "nowhere"
    assert f"{where}: no such folder" in message_of(
        trainer, tmp_path / "run", f"--data.corpus={where}"
    )


def test_missing_split(trainer: Any, tmp_path: Path) -> None:
    line = message_of(trainer, tmp_path / "run", "--data.train_split=trian")
    assert "trian.tsv: no such file; splits of" in line
    assert "train" in line


def test_row_without_audio(trainer: Any, copied: Path, tmp_path: Path) -> None:
    missing = next((copied / "clips").glob("*train*"))
    missing.unlink()
    line = message_of(trainer, tmp_path / "run", f"--data.corpus={copied}")
    assert f"{missing}: no such file, though train lists it" in line
    assert "data.missing_audio=drop" in line
    done = trainer(tmp_path / "run", f"--data.corpus={copied}", "--data.missing_audio=drop")
    assert "left out of train: 1 missing" in done.output
    drops = (tmp_path / "run" / "drops.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["audio"] for row in drops] == [str(missing)]


def test_empty_split(trainer: Any, copied: Path, tmp_path: Path) -> None:
    table = copied / "train.tsv"
    table.write_text(table.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    line = message_of(trainer, tmp_path / "run", f"--data.corpus={copied}")
    assert "split 'train' is empty" in line


def test_unknown_language(trainer: Any, tmp_path: Path) -> None:
    line = message_of(trainer, tmp_path / "run", "--data.language=klingon")
    assert "the model does not support language 'klingon'" in line


def test_model_without_a_tokenizer(trainer: Any, blank_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(blank_model, tmp_path / "model"))
    (model / "tokenizer.json").unlink()
    line = message_of(trainer, tmp_path / "run", f"--model.name={model}")
    assert "the folder has no tokenizer" in line


def test_unknown_key_in_a_recipe(trainer: Any, tmp_path: Path) -> None:
    from trainer.config import parse

    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optim:\n  learning_rate: 1e-5\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"mine\.yaml: unknown key optim\.learning_rate"):
        parse([str(recipe)])


def test_choosing_by_what_is_reported_is_warned_about(trainer: Any, tmp_path: Path) -> None:
    same = ("--data.dev_split=test", "--data.test_split=test", "--eval.max_length=4")
    done = trainer(tmp_path / "run", *same, "--loop.max_steps=1")
    assert "warning: dev and test are the same" in done.output


def test_a_damaged_checkpoint_is_named(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=3")
    path = run / "checkpoints" / "step-00000003"
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert f"{weights}: damaged" in message_of(trainer, run, f"--resume={path}")


def test_a_refused_run_leaves_no_run_behind(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    message_of(trainer, run, "--data.train_split=trian")
    trainer(run, "--loop.max_steps=1")  # the same name can be used: nothing was begun


def test_a_clip_that_vanishes_later_costs_its_weight_and_no_more(
    trainer: Any, copied: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer(run, f"--data.corpus={copied}", "--loop.max_steps=3")
    missing = next((copied / "clips").glob("*train*"))
    missing.unlink()
    trainer(run, f"--data.corpus={copied}", "--loop.max_steps=6", "--resume=auto")
    rows = (run / "drops.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["audio"] for row in rows} == {str(missing)}
    assert (run / "model" / "model.safetensors").is_file()
