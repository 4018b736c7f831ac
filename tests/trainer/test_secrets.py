"""An access token never leaves the environment."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.atomic_files import write_json
from data.config import DataConfig
from data.errors import redact
from trainer.checkpoint.fixed_knobs import refuse_changed_knobs, training_knobs
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUv"


def carry_token() -> None:
    """Put a token where huggingface_hub looks for it."""
    os.environ["HF_TOKEN"] = os.environ["HUGGING_FACE_HUB_TOKEN"] = TOKEN


def test_a_token_of_the_environment_is_in_no_output_and_no_file(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = trainer(
        run, "--loop.max_steps=1", "--data.dev_split=dev", "--eval.max_length=4",
        sabotage=carry_token,
    )  # fmt: skip
    assert TOKEN not in done.output
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_a_token_given_by_mistake_is_blotted_out(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = trainer(run, f"--model.name=/models/{TOKEN}", check=False, sabotage=carry_token)
    assert done.returncode == 2
    assert TOKEN not in done.output
    assert "/models/hf_…" in done.output
    assert TOKEN not in (run / "status.json").read_text(encoding="utf-8")


def test_redaction_leaves_other_words_alone() -> None:
    assert redact(f"see {TOKEN}, hf_hub and hf_1") == "see hf_…, hf_hub and hf_1"


def test_no_path_of_this_machine_is_in_what_is_sent_to_the_hub(
    trainer: Any, copied: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model = shutil.copytree(trainer.model, tmp_path / "models" / "mine")
    noise = tmp_path / "noise"
    shutil.copytree(copied / "clips", noise)
    knobs = (f"--model.name={model}", "--loop.max_steps=2", f"--data.augment.noise={noise}")
    knobs += (f"--data.corpus={copied}", "--data.dev_split=dev", "--eval.max_length=4")
    trainer(run, *knobs)
    newest = CheckpointRotation(run / "checkpoints", CheckpointConfig()).all()[-1]
    sent = [path for place in (run / "model", newest) for path in place.rglob("*")]
    assert len(sent) > 10
    places = [str(each).encode() for each in (tmp_path, trainer.model.parent, Path.home())]
    for path in filter(Path.is_file, sent):
        content = path.read_bytes()
        assert not any(place in content for place in places), path
    assert b'"model.name": "mine"' in (newest / "state.json").read_bytes()
    trainer(run, *knobs, "--resume=auto", "--loop.max_steps=3")


def test_checkpoints_that_hold_whole_paths_still_compare_equal(tmp_path: Path) -> None:
    data = DataConfig(streaming=True, data_files=("train=/data/x/part-*.parquet",))
    data = replace(data, augment=replace(data.augment, noise="../noise"))
    for name in ("/models/mine", "openai/whisper-small"):
        now = training_knobs(ModelConfig(name=name), OptimConfig(), data, 7)
        before = now | {
            "model.name": name,
            "data.data_files": list(data.data_files),
            "data.augment.noise": "../noise",
        }
        write_json(tmp_path / "state.json", {"shape": before})
        refuse_changed_knobs(tmp_path, now, ())
    assert now["model.name"] == "openai/whisper-small"
    assert now["data.data_files"] == ["train=part-*.parquet"]
    assert now["data.augment.noise"] == "noise"
