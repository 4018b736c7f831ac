"""An access token never leaves the environment."""

import os
from pathlib import Path
from typing import Any

from data.errors import redact

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
