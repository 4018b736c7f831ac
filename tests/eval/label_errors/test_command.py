"""`python -m eval label-errors RUN` finds a wrong transcript, and shows it with what is heard."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import read_jsonl, write_jsonl
from data.errors import InputError
from eval.label_errors.command import LabelErrorsConfig, find_label_errors, read_utterances
from eval.label_errors.excess_loss import TranscriptLoss
from tests.conftest import Trainer
from tests.forked import run_module

WRONG = "common_voice_en_train_005.mp3"


@pytest.fixture
def ran(trainer: Any, copied: Path, tmp_path: Path) -> Path:
    """Return a run on a corpus in which one transcript has nothing of the others."""
    table = copied / "train.tsv"
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row[1] == WRONG:
            row[3] = "zygote quip ¿&?"
    table.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    Trainer(copied, trainer.model, tmp_path)(run, "--loop.max_steps=12", "--log.log_every=12")
    return run


def test_a_wrong_transcript_is_the_first_to_be_looked_at(ran: Path) -> None:
    done = run_module("eval", "label-errors", ran, "--max_clips", 3)
    assert done.returncode == 0, done.stderr
    assert "zygote quip" in done.stdout
    rows = list(read_jsonl(ran / "suspects" / "utterances.jsonl"))
    assert len(rows) == 3
    assert Path(rows[0]["id"]).name == WRONG
    assert rows[0]["reference"] == "zygote quip ¿&?"
    assert rows[0]["excess"] > rows[1]["excess"] >= rows[2]["excess"]
    assert rows[0]["hearings"] == 4
    assert {"hypothesis", "loss", "audio", "edits", "units"} <= rows[0].keys()
    assert json.loads((ran / "suspects" / "scores.json").read_text())["most"] == 3
    shutil.rmtree(ran / "model")
    with pytest.raises(InputError, match="no model yet"):
        find_label_errors(LabelErrorsConfig(run=str(ran)))
    refused = run_module("eval", "label-errors", "/no/such")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_clips_of_a_stream_are_gone_and_said_to_be(tmp_path: Path) -> None:
    row = {"split": "train", "id": "a", "audio": "/a.mp3", "text": "one", "seconds": 1.0}
    write_jsonl(tmp_path / "manifest.jsonl", [row])
    ranked = [TranscriptLoss(id=name, loss=1.0, excess=2.0, passes=1) for name in ("b", "a")]
    assert [u.id for u in read_utterances(tmp_path, ranked)] == ["a"]
    with pytest.raises(InputError, match="came from a stream"):
        read_utterances(tmp_path, ranked[:1])


def test_values_that_could_not_work_are_refused() -> None:
    with pytest.raises(InputError, match="max_clips must be at least 1"):
        LabelErrorsConfig(run="run", max_clips=0)
